// A steady load: 10,000 requests a second.
import { scenario } from './common.js';

const { options, setup, run, teardown, handleSummary } = scenario('constant');
export { options, setup, teardown, handleSummary };
export default run;
