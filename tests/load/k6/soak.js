// An hour at half of the steady load; memory is watched in its second half.
// LOAD_METRICS names what to read it from: api=http://HOST:PORT/metrics,executor=http://HOST:PORT/metrics
import exec from 'k6/execution';
import http from 'k6/http';
import { Counter, Gauge } from 'k6/metrics';
import { MB, scenario, watched } from './common.js';

const SAMPLES = 180;
const SUMS = ['n', 't', 'm', 'tt', 'tm'];
const SHORTEST_PAUSE_SECONDS = 0.5;
const time = watched('soak');
const pauseSeconds = Math.max(SHORTEST_PAUSE_SECONDS, time.seconds / SAMPLES);
const processes = (__ENV.LOAD_METRICS || '').split(',').filter(Boolean).map((part, at) => {
  const [name, url] = part.trim().split('=');
  const sums = Object.fromEntries(SUMS.map((sum) => [sum, new Counter(`memory_${at}_${sum}`)]));
  return { name, url, last: new Gauge(`memory_${at}_last`), sums };
});
const watch = {
  executor: 'constant-arrival-rate',
  exec: 'memory',
  rate: 1,
  timeUnit: `${Math.round(pauseSeconds * 1000)}ms`,
  startTime: `${Math.round(time.after * 1000)}ms`,
  duration: `${Math.round(time.seconds * 1000)}ms`,
  preAllocatedVUs: 1,
};

const { options, setup, run, teardown, handleSummary } = scenario('soak', processes.length ? { watch } : {}, growth);
export { options, setup, teardown, handleSummary };
export default run;

export function memory() {
  const seconds = (Date.now() - exec.scenario.startTime) / 1000;
  processes.forEach(({ url, last, sums }) => {
    const lines = http.get(url, { responseType: 'text' }).body.split('\n');
    const resident = lines.filter((line) => line.startsWith('process_resident_memory_bytes'));
    const mb = resident.reduce((sum, line) => sum + Number(line.split(' ').pop()), 0) / MB;
    last.add(mb);
    sums.n.add(1);
    sums.t.add(seconds);
    sums.m.add(mb);
    sums.tt.add(seconds * seconds);
    sums.tm.add(seconds * mb);
  });
}

// The line of least squares through each process's memory, from the sums: k6 keeps no samples for its summary.
function growth(metrics) {
  return processes.filter(({ sums }) => metrics[sums.n.name]).map(({ name, last, sums }) => {
    const [n, t, m, tt, tm] = SUMS.map((sum) => metrics[sums[sum].name].values.count);
    const slope = n > 1 ? (n * tm - t * m) / (n * tt - t * t) : 0;
    return {
      process: name,
      kind: 'RSS',
      samples: n,
      last_mb: metrics[last.name].values.value,
      mb_per_hour: slope * 3600,
      growth_mb: slope * (n - 1) * pauseSeconds,
    };
  });
}
