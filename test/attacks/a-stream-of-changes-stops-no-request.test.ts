// Objects of a cluster may change thousands of times a second. A gateway that follows them gathers the changes, reads
// few generations, and has time for requests meanwhile.

import { readFileSync } from 'node:fs';
import { request } from 'node:https';
import t from 'tap';
import type { FakeApiServer } from '../fixtures/api-server.ts';
import { type Owner, until } from '../fixtures/process.ts';
import { routeIn, serviceOf, sliceOf, startFilled, startWatched, statusOf } from '../fixtures/watched.ts';

const events = 20_000;
/** Changes that one generation takes at least, on average. */
const gathered = 1000;
const addressOf = (i: number): string => `10.0.${i >> 8}.${i & 255}`;
const last = addressOf(events - 1);
const lines = Array.from({ length: events }, (_, i) => {
  const { metadata, ...rest } = sliceOf('web', [addressOf(i)]);
  const object = { ...rest, metadata: { ...metadata, resourceVersion: String(1_000_000 + i) } };
  return `${JSON.stringify({ type: 'MODIFIED', object })}\n`;
}).join('');

/** Sends all events, and gives the longest time, milliseconds, in which nothing else had a turn until `done`. */
async function longestPause(t: Owner, api: FakeApiServer, done: () => Promise<unknown>): Promise<number> {
  let [before, longest] = [performance.now(), 0];
  const ticking = setInterval(() => {
    const now = performance.now();
    longest = Math.max(longest, now - before);
    before = now;
  }, 5);
  t.teardown(() => clearInterval(ticking));
  api.inject('EndpointSlice', lines);
  await done();
  clearInterval(ticking);
  return longest;
}

/** The same for a client that does nothing with the events: what the API server in this process and the machine take. */
async function pauseWithoutGateway(t: Owner): Promise<number> {
  const api = await startFilled(t);
  const query = 'watch=1&resourceVersion=999999';
  const sent = request(`${api.url}/apis/discovery.k8s.io/v1/endpointslices?${query}`, {
    ca: readFileSync(api.caFile),
    headers: { authorization: `Bearer ${api.token}` },
  });
  t.teardown(() => sent.destroy());
  let text = '';
  sent.on('error', () => {});
  sent.once('response', (response) => {
    response.on('error', () => {});
    response.setEncoding('utf8').on('data', (part: string) => {
      text += part;
    });
  });
  sent.end();
  await until(() => api.watches() > 0 || undefined, 'the watch');
  return longestPause(t, api, () => until(() => text.includes(`"${last}"`) || undefined, 'the last event'));
}

t.test('twenty thousand events at once', { timeout: 240_000 }, async (t) => {
  const usual = await pauseWithoutGateway(t);
  const api = await startFilled(t);
  for (const one of [routeIn('shop', 'w', 'w.test', 'web'), serviceOf('web'), sliceOf('web', ['192.0.2.1'])])
    api.put(one);
  const one = await startWatched(t, api);
  await until(() => api.watches() >= 10 || undefined, 'the watches');
  const upstreams = async (): Promise<string> => (await fetch(`http://127.0.0.1:${one.admin}/upstreams`)).text();
  const loaded = (): number => one.lines.filter(({ code }) => code === 'config_loaded').length;
  const before = loaded();
  const longest = await longestPause(t, api, () =>
    until(async () => (await upstreams()).includes(last) || undefined, 'the last event'),
  );
  t.equal(await statusOf(one, 'a.test'), 200);
  t.ok(loaded() - before <= events / gathered, `${loaded() - before} generations`);
  const bound = Math.max(1000, 5 * usual);
  t.ok(longest < bound, `${Math.round(longest)} ms without a turn; ${Math.round(usual)} ms without the gateway`);
});
