// What every script shares: the scenario from scenarios.json, the task it runs on, the thresholds, the summary.
// LOOPAI_URL and LOOPAI_API_KEY say where and as whom, LOAD_SCALE multiplies rates and durations.
import { fail, sleep } from 'k6';
import exec from 'k6/execution';
import http from 'k6/http';
import { Rate } from 'k6/metrics';

const file = JSON.parse(open('../scenarios.json'));
const limits = file.limits;
const url = (__ENV.LOOPAI_URL || 'http://127.0.0.1:8080').replace(/\/$/, '');
const scale = Number(__ENV.LOAD_SCALE || '1');
const headers = { 'Content-Type': 'application/json' };
if (__ENV.LOOPAI_API_KEY) headers.Authorization = `Bearer ${__ENV.LOOPAI_API_KEY}`;

const ACTIVE_SECONDS = 30;
const FEWEST_CONNECTIONS = 16;
const ENDS = ['200', '429', '500', '503', '504', '0'];  // k6 counts only what is named before the start; 0 is no answer
const errors = new Rate('errors');

export const MB = 1024 * 1024;

// The scenario's parts for a script; `more` are scenarios beside it, `memory` says at the end what was seen of memory.
export function scenario(name, more = {}, memory = () => []) {
  const stages = file.scenarios[name].map((stage) => ({ ...stage, seconds: stage.seconds * scale }));
  const connections = Math.max(FEWEST_CONNECTIONS, Math.ceil(file.connections * scale));
  const options = {
    scenarios: { [name]: arrivals(stages, connections), ...more },
    thresholds: thresholds(stages),
    summaryTrendStats: ['p(50)', 'p(95)', 'p(99)'],
    noConnectionReuse: false,
    discardResponseBodies: true,
    setupTimeout: '120s',
  };
  return {
    options,
    setup: () => makeTask(name),
    run: (data) => execute(data, stages),
    teardown: ({ task }) => http.del(`${url}/api/v1/tasks/${task}`, null, { headers: { ...headers, 'If-Match': '*' } }),
    handleSummary: (data) => summary(name, stages, data, memory(data.metrics)),
  };
}

// The seconds from the start to the stage that asks for memory, and its own.
export function watched(name) {
  let after = 0;
  for (const stage of file.scenarios[name]) {
    if (stage.memory) return { after: after * scale, seconds: stage.seconds * scale };
    after += stage.seconds;
  }
  return fail(`${name} watches no memory`);
}

// An open loop: k6 starts requests when they are due while it has a free connection, and drops them when it has none.
function arrivals(stages, connections) {
  const aMinute = (rate) => Math.max(1, Math.round(rate * scale * 60));
  const targets = [];
  stages.forEach((stage, at) => {
    const jumps = at > 0 && stages[at - 1].to !== stage.from;
    if (jumps) targets.push({ target: aMinute(stage.from), duration: '0s' });
    targets.push({ target: aMinute(stage.to), duration: `${Math.round(stage.seconds * 1000)}ms` });
  });
  return {
    executor: 'ramping-arrival-rate',
    startRate: aMinute(stages[0].from),
    timeUnit: '1m',
    stages: targets,
    preAllocatedVUs: connections,
    gracefulStop: '10s',
  };
}

// k6 keeps figures of a tag's value only where a threshold names it, so what is no limit has one that always holds.
function thresholds(stages) {
  const wanted = {};
  stages.forEach(({ name, overload }) => {
    const latency = `http_req_duration{stage:${name},expected_response:true}`;
    wanted[latency] = [overload ? 'p(99)>=0' : `p(99)<=${limits.p99_ms}`];
    wanted[`errors{stage:${name}}`] = [overload ? 'rate>=0' : `rate<=${limits.errors}`];
    wanted[`http_reqs{stage:${name}}`] = ['count>=0'];
  });
  ENDS.forEach((end) => { wanted[`http_reqs{load:yes,status:${end}}`] = ['count>=0']; });
  wanted['http_req_duration{load:yes,expected_response:true}'] = ['p(99)>=0'];
  if (!stages.some((stage) => stage.overload)) {
    wanted.dropped_iterations = [`count<=${Math.floor(limits.errors * due(stages))}`];
  }
  return wanted;
}

function due(stages) {
  return stages.reduce((sum, stage) => sum + (stage.seconds * (stage.from + stage.to) * scale) / 2, 0);
}

// A task with the program, once executions run it. Its generation is waited for, whatever comes of it, so that no
// generated version takes over later.
function makeTask(name) {
  const definition = { ...file.task, name: `load-${name}-${Date.now()}-${Math.floor(Math.random() * 1e9)}` };
  const task = posted('/api/v1/tasks', definition, { Prefer: 'wait=60' }).id;
  const version = posted(`/api/v1/tasks/${task}/artifacts`, { code: file.program }).version;
  const deadline = Date.now() + ACTIVE_SECONDS * 1000;
  for (;;) {
    const answer = post(`/api/v1/tasks/${task}/execute`, { input: file.inputs[0] });
    if (answer.status === 200 && answer.json('version') === version) return { task };
    if (Date.now() > deadline) fail(`version ${version} does not become active: ${answer.status} ${answer.body}`);
    sleep(0.05);
  }
}

function post(path, body, more = {}) {
  const params = { headers: { ...headers, ...more }, responseType: 'text', timeout: '90s' };
  return http.post(url + path, JSON.stringify(body), params);
}

function posted(path, body, more) {
  const answer = post(path, body, more);
  if (answer.status < 200 || answer.status > 299) fail(`${path}: ${answer.status} ${answer.body}`);
  return answer.json();
}

function execute({ task }, stages) {
  const stage = stageAt((Date.now() - exec.scenario.startTime) / 1000, stages);
  const input = file.inputs[exec.scenario.iterationInTest % file.inputs.length];
  const answer = http.post(`${url}/api/v1/tasks/${task}/execute`, JSON.stringify({ input }), {
    headers,
    tags: { name: 'execute', load: 'yes', stage },
    responseCallback: http.expectedStatuses(200),
  });
  errors.add(answer.status !== 200, { stage });
}

function stageAt(seconds, stages) {
  let end = 0;
  for (const stage of stages) {
    end += stage.seconds;
    if (seconds < end) return stage.name;
  }
  return stages[stages.length - 1].name;
}

// The report of `python -m tests.load`, but that latencies count from the sending and drops are not told by stage.
function summary(name, stages, { metrics, state }, memory) {
  const value = (metric, field) => (metrics[metric] ? metrics[metric].values[field] || 0 : 0);
  const latencies = (tag) => {
    const metric = `http_req_duration{${tag},expected_response:true}`;
    return { p50_ms: value(metric, 'p(50)'), p95_ms: value(metric, 'p(95)'), p99_ms: value(metric, 'p(99)') };
  };
  const ends = { dropped: value('dropped_iterations', 'count') };
  ENDS.forEach((end) => { ends[end] = value(`http_reqs{load:yes,status:${end}}`, 'count'); });
  const seconds = stages.reduce((sum, stage) => sum + stage.seconds, 0);
  const broken = Object.entries(metrics).flatMap(([metric, { thresholds: of }]) => Object.entries(of || {})
    .filter(([, { ok }]) => !ok).map(([limit]) => `${metric}: ${limit}`));
  memory.filter(({ growth_mb: grown }) => grown > limits.growth_mb).forEach(({ process, growth_mb: grown }) => {
    broken.push(`${process} grew by ${grown.toFixed(1)} MB, allowed are ${limits.growth_mb}`);
  });
  const report = {
    scenario: name,
    scale,
    load_generator: 'k6',
    seconds: state.testRunDurationMs / 1000,
    answered_per_second: ends['200'] / seconds,
    ends: Object.fromEntries(Object.entries(ends).filter(([, count]) => count)),
    ...latencies('load:yes'),
    stages: stages.map((stage) => ({
      name: stage.name,
      seconds: stage.seconds,
      overload: Boolean(stage.overload),
      requests: value(`http_reqs{stage:${stage.name}}`, 'count'),
      answered_per_second: value(`errors{stage:${stage.name}}`, 'fails') / stage.seconds,
      errors: value(`errors{stage:${stage.name}}`, 'passes'),
      ...latencies(`stage:${stage.name}`),
    })),
    memory,
    broken_limits: broken,
  };
  const text = `${JSON.stringify(report, null, 2)}\n`;
  return { stdout: text, [__ENV.LOAD_SUMMARY || `load-${name}.json`]: text };
}
