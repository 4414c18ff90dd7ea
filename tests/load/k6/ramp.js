// From no load to 100,000 requests a second over ten minutes.
import { scenario } from './common.js';

const { options, setup, run, teardown, handleSummary } = scenario('ramp');
export { options, setup, teardown, handleSummary };
export default run;
