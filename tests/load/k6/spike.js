// Ten times the load for a minute, and whether all is well again after it.
import { scenario } from './common.js';

const { options, setup, run, teardown, handleSummary } = scenario('spike');
export { options, setup, teardown, handleSummary };
export default run;
