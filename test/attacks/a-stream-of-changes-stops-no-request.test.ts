// Objects of a cluster may change thousands of times a second. A gateway that follows them gathers the changes, reads
// few generations, and has time for requests meanwhile.

import t from 'tap';
import { until } from '../fixtures/process.ts';
import { routeIn, serviceOf, sliceOf, startFilled, startWatched, statusOf } from '../fixtures/watched.ts';

const events = 20_000;

t.test('twenty thousand events at once', async (t) => {
  const api = await startFilled(t);
  for (const one of [routeIn('shop', 'w', 'w.test', 'web'), serviceOf('web'), sliceOf('web', ['192.0.2.1'])])
    api.put(one);
  const one = await startWatched(t, api);
  await until(() => api.watches() >= 10 || undefined, 'the watches');
  const upstreams = async (): Promise<string> => (await fetch(`http://127.0.0.1:${one.admin}/upstreams`)).text();
  const loaded = (): number => one.lines.filter(({ code }) => code === 'config_loaded').length;
  const before = loaded();
  const lines = Array.from({ length: events }, (_, i) => {
    const { metadata, ...rest } = sliceOf('web', [`10.0.${i >> 8}.${i & 255}`]);
    const object = { ...rest, metadata: { ...metadata, resourceVersion: String(1_000_000 + i) } };
    return `${JSON.stringify({ type: 'MODIFIED', object })}\n`;
  }).join('');
  let last = performance.now();
  let longest = 0;
  const ticking = setInterval(() => {
    const now = performance.now();
    longest = Math.max(longest, now - last);
    last = now;
  }, 5);
  t.teardown(() => clearInterval(ticking));
  api.inject('EndpointSlice', lines);
  const final = `10.0.${(events - 1) >> 8}.${(events - 1) & 255}`;
  await until(async () => (await upstreams()).includes(final) || undefined, 'the last event');
  t.equal(await statusOf(one, 'a.test'), 200);
  t.ok(loaded() - before <= 5, `${loaded() - before} generations`);
  t.ok(longest < 1000, `${Math.round(longest)} ms without a turn`);
});
