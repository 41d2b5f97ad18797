// What is learned, what is reported, what is forgotten: on a clock of the test's own.

import t from 'tap';
import { anomalies } from '../../../sidecar/edge/anomalies/capability.ts';
import { Detection } from '../../../sidecar/edge/anomalies/detection.ts';
import { type Anomaly, Model, type Seen } from '../../../sidecar/edge/anomalies/model.ts';
import type { AnomalyPlan } from '../../../sidecar/edge/anomalies/schema.ts';
import type { Exchange } from '../../../sidecar/exchange/exchange.ts';
import { hooksOf, planOf, serve } from '../../fixtures/exchange.ts';
import { logTo } from '../../fixtures/mesh.ts';
import { createRandom } from '../../fixtures/random.ts';

const minute = 60_000;
const written = { window: '1m', learningPeriod: '2h', halfLife: '24h' };
const planFor = async (more: object = {}) =>
  (await planOf(anomalies, 'AnomalyDetection', { ...written, ...more })) as AnomalyPlan;
const plan = await planFor();

const seen = (more: Partial<Seen> = {}): Seen => ({
  ...{ route: 'r', key: 'ann', caller: 'ann', requests: 10, errors: 0, largestRequest: 500, largestResponse: 5000 },
  paths: ['GET /a'],
  ...more,
});

/** A model, and what it reports. */
function createModel(of = plan, start = 0) {
  const told: Anomaly[] = [];
  const model = new Model(of, start, (anomaly) => told.push(anomaly));
  let now = start;
  return {
    model,
    told,
    /** A window with these. */
    pass(...all: Seen[]) {
      for (const one of all) model.add(one, now);
      now += minute;
      model.tick(now);
      return told.splice(0).map(({ kind, caller }) => `${kind} ${caller}`);
    },
    wait(windows: number) {
      now += windows * minute;
      model.tick(now);
    },
  };
}
const random = createRandom(7);
/** 5 to 14 requests in a window. */
const usual = (more: Partial<Seen> = {}) => seen({ requests: 5 + random.below(10), ...more });

t.test('nothing is reported during the learning period', async (t) => {
  const { pass } = createModel();
  for (let i = 0; i < 119; i++)
    t.strictSame(
      pass(usual({ requests: i === 50 ? 5000 : 7, errors: i % 3, paths: [`GET /${i}`] }), seen({ key: `${i}` })),
      [],
    );
});

t.test('each kind of anomaly is reported', async (t) => {
  const { pass } = createModel();
  for (let i = 0; i < 150; i++) pass(usual());
  for (let i = 0; i < 1000; i++) t.strictSame(pass(usual()), [], 'usual behaviour is not reported');
  t.strictSame(pass(seen({ requests: 100 })), ['rate ann']);
  t.strictSame(pass(seen({ requests: 100 })), [], 'once in ten windows');
  t.strictSame(pass(seen({ largestRequest: 50_000 })), ['requestSize ann']);
  t.strictSame(pass(seen({ largestResponse: 9_000_000 })), ['responseSize ann']);
  t.strictSame(pass(seen({ requests: 20, errors: 12 })), ['errors ann']);
  t.strictSame(pass(seen({ requests: 10, errors: 10 })), [], 'too few to tell');
  t.strictSame(pass(seen({ key: 'bob', caller: 'bob', requests: 1000 })), ['newCaller bob']);
  t.strictSame(
    pass(seen({ key: 'bob', caller: 'bob', requests: 3000, paths: ['GET /x'] })),
    [],
    'the behaviour is learned first',
  );
  t.strictSame(pass(seen({ paths: ['GET /a', 'GET /b', 'POST /a'] })), ['newPath ann', 'newPath ann']);
  t.strictSame(pass(seen({ paths: ['GET /b'] })), []);
  t.strictSame(pass(seen({ route: 'other', paths: ['GET /z'] })), [], 'a new route learns for itself');
  const chosen = createModel(await planFor({ detect: ['errors'] }));
  for (let i = 0; i < 150; i++) chosen.pass(usual());
  t.strictSame(chosen.pass(seen({ requests: 500, errors: 400, paths: ['GET /q'] }), seen({ key: 'x' })), [
    'errors ann',
  ]);
});

t.test('a job that runs now and then becomes usual in its own time', async (t) => {
  const { pass, wait } = createModel();
  for (let day = 0; day < 20; day++) {
    const told = pass(seen({ requests: 900 + day, largestResponse: 100_000 }));
    t.strictSame(told, []);
    wait(239);
  }
  t.strictSame(pass(seen({ requests: 2500 })), ['rate ann']);
});

t.test('an attack does not become usual at once, and lasting behaviour does', async (t) => {
  const { pass } = createModel();
  for (let i = 0; i < 200; i++) pass(usual());
  let reports = 0;
  for (let i = 0; i < 60; i++) reports += pass(seen({ requests: 300 })).length;
  t.ok(reports >= 2, `${reports} reports`);
  for (let i = 0; i < 3000; i++) reports = pass(seen({ requests: 300 })).length;
  t.equal(reports, 0);
  const slow = createModel();
  for (let i = 0; i < 200; i++) slow.pass(usual());
  const told: string[] = [];
  for (let requests = 14; requests < 14_000; requests *= 1.5)
    told.push(...slow.pass(seen({ requests: Math.floor(requests) })));
  t.ok(told.includes('rate ann'), 'a client cannot double it step by step unnoticed');
});

t.test('memory is bounded', async (t) => {
  const { pass, model, wait } = createModel(await planFor({ maxSeries: 10, maxPaths: 5 }));
  for (let i = 0; i < 150; i++) pass(usual());
  const strangers = Array.from({ length: 50 }, (_, i) => seen({ key: `${i}`, paths: [`GET /${i}`] }));
  t.equal(pass(...strangers).filter((one) => one.startsWith('newCaller')).length, 9);
  t.strictSame(pass(...strangers), [], 'forgotten behaviour is not reported as new each time');
  t.match(model.state(0), { series: 10, paths: 5, unlearned: 820, learningUntil: '1970-01-01T02:00:00.000Z' });
  wait(5 * 24 * 60);
  t.match(model.state(0), { series: 0, paths: 0 }, 'behaviour that was not seen for four half-lives is forgotten');
  t.strictSame(pass(usual()), [], 'it is learned again');
});

t.test('one caller does not use up the paths, or the reports, of others', async (t) => {
  const { pass, model } = createModel(await planFor({ maxPaths: 100 }));
  const bob = { key: 'bob', caller: 'bob', paths: ['GET /b'] };
  for (let i = 0; i < 150; i++) pass(usual(), usual(bob));
  const told: string[] = [];
  for (let i = 0; i < 10; i++)
    told.push(...pass(usual({ paths: Array.from({ length: 50 }, (_, j) => `GET /invented-${i}-${j}`) }), usual(bob)));
  t.strictSame(told, Array(5).fill('newPath ann'), 'five in ten windows');
  t.match(model.state(0), { paths: 51, unlearnedPaths: 451 });
  t.strictSame(pass(usual({ ...bob, paths: ['GET /admin'] })), ['newPath bob']);
});

t.test('a changed plan keeps what was learned', async (t) => {
  const { pass, model } = createModel();
  for (let i = 0; i < 150; i++) pass(usual());
  model.update(await planFor({ threshold: 50, detect: ['newCaller'] }), 150 * minute);
  t.strictSame(pass(seen({ key: 'bob', caller: 'bob' })), ['newCaller bob']);
  model.update(await planFor({ window: '2m' }), 150 * minute);
  t.match(model.state(0), { series: 0, paths: 0, learningUntil: '1970-01-01T04:30:00.000Z' });
});

t.test('how a request is counted', async (t) => {
  const counted: unknown[] = [];
  const asked = async (known: Partial<Exchange>, path: string, status = 200, connection = {}) => {
    const detection = new Detection({
      ...{ log: { warn() {} }, count() {}, now: () => 0, date: () => 0 },
      first: { tell: (report) => void counted.push(report) },
    });
    const hooks = hooksOf(anomalies, { AnomalyDetection: plan }, { shared: detection })!;
    const { exchange } = await serve(hooks, { known: { path, ...known }, connection }, { status });
    exchange.status = status;
    hooks.finished!(exchange);
    detection.pass();
    return ((counted.pop() as [[string, Seen[]]])[0][1] as Seen[])[0]!;
  };
  t.match(await asked({}, '/orders/123?token=secret'), { caller: 'anonymous', errors: 0, paths: ['GET /orders/{*}'] });
  t.match(await asked({}, '/nothing/here', 404), { errors: 1, paths: [] }, 'paths that the app does not know');
  t.match(await asked({ clientId: 'ann', authMethod: 'apiKey' }, '/'), { caller: 'apiKey ann' });
  t.match(
    await asked({ authMethod: 'jwt', auth: { issuer: 'i', subject: 's\n', principal: 'i/s', claims: {} } }, '/'),
    { caller: 'jwt i s.' },
  );
  t.match(await asked({}, '/', 200, { peer: { id: { uri: 'spiffe://demo.test/x' } } }), {
    caller: 'spiffe://demo.test/x',
  });
  const long = await asked({ clientId: 'x'.repeat(5000) }, '/');
  t.ok(long.key.length <= 200 && long.caller.length <= 200);
});

t.test('an alert has a metric, a log line and an entry on the page', async (t) => {
  let [now, jump] = [0, 0];
  const lines: Record<string, unknown>[] = [];
  const counts: string[] = [];
  const detection = new Detection({
    log: logTo(lines),
    count: (policy, kind) => void counts.push(`${policy} ${kind}`),
    first: undefined,
    now: () => now,
    date: () => now + jump,
  });
  detection.watch('shop/p', plan);
  const window = (all: Seen[]) => {
    detection.take([
      ['shop/p', all],
      ['gone', all],
    ]);
    now += minute;
    detection.pass();
  };
  for (let i = 0; i < 150; i++) window([usual()]);
  window([seen({ requests: 200 })]);
  t.match(lines, [
    {
      code: 'anomaly',
      policy: 'shop/p',
      kind: 'rate',
      route: 'r',
      caller: 'ann',
      seen: 200,
      msg: /^ann on r: 200 requests in a window, up to \d+ are usual$/,
    },
  ]);
  t.match(detection.state, {
    policies: { 'shop/p': { series: 1 } },
    recent: [{ time: '1970-01-01T02:31:00.000Z', kind: 'rate' }],
  });
  window(Array.from({ length: 300 }, (_, i) => seen({ key: `${i}`, caller: `c${i}` })));
  t.equal(counts.length, 301, 'the metric counts all');
  t.equal(lines.length, 21, 'the log has twenty of a kind in a minute');
  t.equal(detection.state.recent.length, 51, 'others of a kind do not displace what came before');
  t.ok(detection.state.recent.some(({ kind }) => kind === 'rate'));
  jump = -365 * 24 * 60 * minute;
  for (let i = 0; i < 20; i++) window([usual()]);
  window([seen({ requests: 500 })]);
  t.match(lines.at(-1), { kind: 'rate', seen: 500 }, 'windows go on when the clock jumps back');
  t.match(detection.state.policies['shop/p'], { learningUntil: '1969-01-01T02:00:00.000Z' });
  detection.watch('shop/p', plan);
  detection.drop('shop/p');
  t.match(detection.state, { policies: { 'shop/p': { series: 301 } } });
  detection.drop('shop/p');
  t.strictSame(detection.state.policies, {});
});
