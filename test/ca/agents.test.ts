import t, { type Test } from 'tap';
import { LiveCell } from '../../cert-agent/base/live.ts';
import { familiesOf, shown, stateOf, whenAcknowledged } from '../../cert-agent/ca/acknowledged.ts';
import { Agents, type Sink } from '../../cert-agent/ca/agents.ts';
import type { BundleAnswer } from '../../cert-agent/ca/bundle-answer.ts';
import { emptyDenyList } from '../../cert-agent/identity/denied.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';

const id = (name: string): string => `spiffe://demo.test/ns/shop/sa/${name}`;
const root = 'ab'.repeat(32);

function answer(bundle: number, denied: number, size = 0): BundleAnswer {
  const document = { spiffe_sequence: bundle, sallyport_denied: { sequence: denied }, filler: 'x'.repeat(size) };
  const body = JSON.stringify(document);
  return { document, body, etag: `"${bundle}-${denied}"`, sequences: { bundle, denied } };
}

function startAgents(t: Test, returnMs?: number) {
  const clock = new ManualClock();
  const cell = new LiveCell(answer(1, 5));
  const list = { denied: emptyDenyList };
  const agents = new Agents({
    ...{ answer: cell, clock, denied: () => list.denied },
    ...(returnMs === undefined ? {} : { returnMs }),
  });
  t.teardown(() => agents.close());
  /** An agent with a sink that remembers. */
  const join = (name: string, etag?: string, serial = '01') => {
    const state = { lines: [] as string[], pending: 0, ended: '' };
    const sink: Sink = {
      write: (line) => void state.lines.push(line),
      pending: () => state.pending,
      end: (abruptly) => {
        state.ended = abruptly === true ? 'abruptly' : 'ended';
      },
    };
    const receiver = agents.open(
      { id: id(name), serial, issuedAt: clock.now(), until: clock.now() + 60_000 },
      sink,
      etag,
    );
    const say = (denied: number, more: object = {}): void =>
      receiver.line(JSON.stringify({ bundle: 1, denied, roots: [root], sidecars: 1, ...more }));
    return { ...receiver, state, say };
  };
  return { clock, cell, agents, join, list };
}

t.test('an agent gets the current document unless it already has it, and each later change', (t) => {
  const { cell, join } = startAgents(t);
  const fresh = join('web');
  const known = join('db', '"1-5"');
  t.same(JSON.parse(fresh.state.lines[0]!), { etag: '"1-5"', document: answer(1, 5).document });
  t.equal(known.state.lines[0], '{}\n');
  cell.set(answer(1, 6));
  for (const one of [fresh, known])
    t.same(JSON.parse(one.state.lines[1]!), { etag: '"1-6"', document: answer(1, 6).document });
  cell.set(answer(1, 7, 100_000));
  t.same(JSON.parse(known.state.lines[2]!), { etag: '"1-7"' }, 'a large document is fetched');
  t.end();
});

t.test("an acknowledgement reports how far the agent's clock is ahead", (t) => {
  const { clock, agents, join } = startAgents(t);
  const [web, db] = [join('web'), join('db')];
  web.say(5, { clock: clock.now() + 3_600_000 });
  db.say(5);
  t.strictSame(
    agents.connected().map(({ clockAheadMs }) => clockAheadMs),
    [3_600_000, undefined],
  );
  t.notOk('clock' in agents.connected()[0]!.acknowledged!);
  t.throws(() => db.say(5, { clock: -1 }), { code: 'acknowledgement_invalid' });
  t.end();
});

t.test('acknowledgements of documents that the CA has not sent, and malformed ones, are refused', (t) => {
  const { join, agents } = startAgents(t);
  const web = join('web');
  web.say(5);
  t.match(agents.connected(), [{ id: id('web'), acknowledged: { bundle: 1, denied: 5, roots: [root], sidecars: 1 } }]);
  const refused = { code: 'acknowledgement_invalid' };
  t.throws(() => web.say(6), refused, 'an acknowledgement of a future document');
  t.throws(() => web.say(5, { bundle: 2 }), refused);
  for (const text of ['', '{', '[]', '{"bundle":1}', '{"bundle":-1,"denied":5,"roots":[],"sidecars":1}'])
    t.throws(() => web.line(text), refused, text);
  t.throws(() => web.say(5, { roots: ['x'] }), refused);
  t.throws(() => web.say(5, { roots: Array.from({ length: 17 }, () => root) }), refused);
  t.match(agents.connected(), [{ acknowledged: { denied: 5 } }], 'the last good document stays');
  t.throws(() => {
    for (let n = 0; n < 200; n++) web.say(5);
  }, /acknowledges too often/);
  t.end();
});

t.test('one identity has at most 64 streams, and the oldest is closed', (t) => {
  const { join, agents } = startAgents(t);
  const all = Array.from({ length: 65 }, () => join('web'));
  join('db');
  t.equal(agents.connected().length, 65);
  t.equal(all[0]!.state.ended, 'ended');
  t.equal(all[1]!.state.ended, '');
  all[0]!.gone();
  all[1]!.gone();
  t.equal(agents.connected().length, 64);
  t.end();
});

t.test('an agent that does not read is disconnected', (t) => {
  const { cell, join, agents } = startAgents(t);
  const web = join('web');
  web.state.pending = 2_000_000;
  cell.set(answer(1, 6));
  t.equal(web.state.ended, 'abruptly');
  t.same(agents.connected(), []);
  t.end();
});

/** A store in which each of these has an agent; `serials` are those of its certificate. */
function storeOf(families: readonly { id: string; serial: string; until?: number }[]) {
  return {
    listLiveFamilies: async (_now: number, serials: readonly string[]) =>
      families.map(({ id, serial, until = 9 }) => ({ id, until, issuedAt: 0, named: serials.includes(serial) })),
  };
}

t.test('an expired family counts while it may renew, if its workload has no valid certificate', async (t) => {
  const { clock, agents } = startAgents(t);
  const now = clock.now();
  const all = [
    { id: id('expired'), serial: '01', until: now - 1000 },
    { id: id('back'), serial: '02', until: now - 1000 },
    { id: id('back'), serial: '03', until: now + 1000 },
  ];
  const store = {
    listLiveFamilies: async (from: number) =>
      all.filter(({ until }) => until > from).map(({ id, until }) => ({ id, until, issuedAt: 0, named: false })),
  };
  const parts = { agents, store, clock, denied: emptyDenyList };
  t.match(await familiesOf(parts), [{ id: id('back'), until: now + 1000 }]);
  t.match(await familiesOf({ ...parts, graceMs: 5000 }), [
    { id: id('expired'), until: now + 4000 },
    { id: id('back'), until: now + 1000 },
  ]);
});

t.test('the stream of a denied agent ends once the agent has been notified', (t) => {
  const { cell, join, agents, list } = startAgents(t);
  const [web, db, app] = [join('web'), join('db', undefined, '02'), join('app')];
  list.denied = { ...emptyDenyList, ids: new Set([id('web')]), serials: new Set(['02']) };
  cell.set(answer(1, 6));
  for (const one of [web, db]) {
    t.match(one.state.lines.at(-1), /"etag":"\\"1-6\\""/);
    t.equal(one.state.ended, 'ended');
  }
  t.match(agents.connected(), [{ id: id('app') }]);
  t.equal(app.state.ended, '');
  t.end();
});

t.test('a wait ends with the last acknowledgement, and names the agents that are missing', async (t) => {
  const { cell, join, agents, clock } = startAgents(t);
  const [web, db] = [join('web', undefined, '01'), join('db', undefined, '02')];
  const denied = { ...emptyDenyList, ids: new Set([id('thief')]) };
  join('thief', undefined, '03');
  cell.set(answer(1, 6));
  const families = [
    { id: id('db'), serial: '02' },
    { id: id('gone'), serial: '04', until: 7 },
    { id: id('thief'), serial: '03' },
    { id: id('web'), serial: '01' },
    { id: 'spiffe://demo.test/sallyport/ca', serial: '05' },
  ];
  const parts = { agents, store: storeOf(families), denied, clock };
  const waiting = whenAcknowledged(parts, (use) => use.denied >= 6, 60_000, clock.monotonic());
  web.say(5);
  db.say(6);
  web.say(6);
  const gone = { id: id('gone'), agents: 1, late: 0, notConnected: 1, until: 7 };
  t.same(await waiting, { by: 2, of: 3, stragglers: [gone], ms: 0 });
  cell.set(answer(1, 7));
  db.say(7);
  const late = await whenAcknowledged(parts, (use) => use.denied >= 7, 1, clock.monotonic());
  t.match(late, { by: 1, of: 3, stragglers: [{ id: id('web'), agents: 1, late: 1, notConnected: 0 }, gone] });
});

t.test('a wait includes agents between two streams, as after a renewal, but not denied ones', async (t) => {
  const { join, agents, clock } = startAgents(t);
  const store = storeOf([{ id: id('web'), serial: '02' }]);
  const parts = { agents, store, denied: { ...emptyDenyList, ids: new Set([id('thief')]) }, clock };
  const wait = () => whenAcknowledged(parts, (use) => use.denied >= 5, 60_000, clock.monotonic());
  join('thief', undefined, '03').gone();
  const web = join('web');
  const waiting = wait();
  web.gone();
  t.equal(agents.departed().length, 2);
  // Whatever follows from the end of the stream.
  await new Promise(setImmediate);
  join('web', undefined, '02').say(5);
  t.same(await waiting, { by: 1, of: 1, stragglers: [], ms: 0 });
  t.match(agents.departed(), [{ id: id('thief') }], 'it has returned');
});

t.test('an agent that does not return is missing after some seconds', async (t) => {
  const { join, agents, clock } = startAgents(t, 1);
  join('web').gone();
  const parts = { agents, store: storeOf([{ id: id('web'), serial: '01' }]), denied: emptyDenyList, clock };
  const waiting = whenAcknowledged(parts, (use) => use.denied >= 5, 60_000, clock.monotonic());
  t.equal(agents.departed().length, 1);
  t.match(await waiting, { by: 0, of: 1, stragglers: [{ id: id('web'), notConnected: 1 }] });
});

t.test('a replica without an agent is missing, although another replica of its ID is connected', async (t) => {
  const { join, agents, clock } = startAgents(t);
  const web = join('web', undefined, '01');
  web.say(5);
  const families = [
    { id: id('web'), serial: '01' },
    { id: id('web'), serial: '02', until: 7 },
    { id: id('web'), serial: '03', until: 8 },
  ];
  const parts = { agents, store: storeOf(families), denied: emptyDenyList, clock };
  const { stragglers, ...counts } = await whenAcknowledged(parts, (use) => use.denied >= 5, 1, clock.monotonic());
  t.same(counts, { by: 1, of: 3, ms: 0 });
  t.same(stragglers, [{ id: id('web'), agents: 3, late: 0, notConnected: 2, until: 8 }]);
});

t.test('the streams of one identity hide no other from a decision, and the list shown is bounded', async (t) => {
  const { join, agents, clock } = startAgents(t);
  for (let n = 0; n < 64; n++) join('thief', undefined, '01');
  const others = Array.from({ length: 150 }, (_, n) => ({ id: id(`db${n}`), serial: `1${n}` }));
  const store = storeOf([{ id: id('thief'), serial: '01' }, ...others]);
  const all = await stateOf({ agents, store, denied: emptyDenyList, clock }, (use) => use.denied >= 5);
  t.match(all, { by: 0, of: 214, stragglers: [{ id: id('thief'), agents: 64, late: 64 }, { id: id('db0') }] });
  t.equal(all.stragglers.length, 151);
  const { stragglers, more } = shown(all);
  t.same({ listed: stragglers.length, more }, { listed: 100, more: 51 });
});
