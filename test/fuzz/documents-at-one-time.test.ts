// Documents from an API server are in force only as they were at one time, however late answers and events come, and
// whichever lists change meanwhile.

import type { ServerResponse } from 'node:http';
import t from 'tap';
import type { KeptObject } from '../../sidecar/cluster/objects.ts';
import type { ClusterStore } from '../../sidecar/cluster/store.ts';
import { type Any, type FakeApiServer, startApiServer } from '../fixtures/api-server.ts';
import { until } from '../fixtures/process.ts';
import { createRandom, type Random } from '../fixtures/random.ts';
import { envoyGateway, fill, followStore, gatewayApi, object, policyIn, routeIn } from '../fixtures/watched.ts';

const makers: Readonly<Record<string, (name: string, change: number) => Any>> = {
  HTTPRoute: (name, change) => routeIn('team', name, `${name}-${change}.test`),
  SecurityPolicy: (name, change) => policyIn('team', name, { authorization: { rules: [{ name: `${change}` }] } }),
  Gateway: (name, change) =>
    object('Gateway', name, { spec: { listeners: [{ name: `${change}` }] } }, gatewayApi, 'team'),
};
const kinds = Object.keys(makers);
const names = ['a', 'b', 'c'];

/** Of the objects that change. */
const stateOf = (all: Iterable<readonly [string, string]>): string =>
  [...all]
    .map(([key, spec]) => `${key} ${spec}`)
    .sort()
    .join('\n');

/** Changes objects at random, and remembers every state that there was. */
class World {
  readonly states = new Set<string>(['']);
  readonly #api: FakeApiServer;
  readonly #random: Random;
  readonly #objects = new Map<string, string>();
  #changes = 0;

  constructor(api: FakeApiServer, random: Random) {
    this.#api = api;
    this.#random = random;
  }

  get now(): string {
    return stateOf(this.#objects);
  }

  change(kind: string): void {
    const name = this.#random.pick(names);
    const key = `${kind} ${name}`;
    if (this.#objects.has(key) && this.#random.below(3) === 0) {
      this.#objects.delete(key);
      this.#api.remove(kind, name, 'team');
    } else {
      const made = makers[kind]!(name, this.#changes++);
      this.#objects.set(key, JSON.stringify(made.spec));
      this.#api.put(made);
    }
    this.states.add(this.now);
  }
}

function stateIn(store: ClusterStore): string {
  const ofTeam = ({ kind, namespace }: KeptObject): boolean => namespace === 'team' && kinds.includes(kind);
  const specOf = ({ text }: KeptObject): string => JSON.stringify((JSON.parse(text) as Any).spec);
  return stateOf((store.snapshot() ?? []).filter(ofTeam).map((one) => [`${one.kind} ${one.name}`, specOf(one)]));
}

/** All that is written arrives later, in its order. */
function delayed(response: ServerResponse, random: Random, mostMs: number): void {
  let last: Promise<unknown> = Promise.resolve();
  const late = (then: () => void): void => {
    const ms = random.below(mostMs);
    last = last.then(() => new Promise((resolve) => setTimeout(resolve, ms))).then(then);
  };
  const [write, end] = [response.write.bind(response), response.end.bind(response)] as [Any, Any];
  response.write = ((bytes: string) => late(() => void write(bytes)) ?? true) as Any;
  response.end = ((bytes?: string) => late(() => void end(bytes)) ?? response) as Any;
}

for (const [what, namespaces, churning] of [
  ['everything', undefined, kinds],
  ['one list', undefined, ['HTTPRoute']],
  ['one list of policies, with namespaces', ['shop', 'team'], ['SecurityPolicy']],
  ['two lists', undefined, ['HTTPRoute', 'SecurityPolicy']],
] as const) {
  const random = createRandom();
  t.test(`${what} changes all the time (SEED=${random.seed})`, async (t) => {
    const api = await startApiServer(t, [gatewayApi, 'gateway.networking.k8s.io/v1beta1', envoyGateway]);
    fill(api);
    const store = await followStore(t, api, { namespaces, times: { proofMs: 1 } });
    const world = new World(api, random);
    const slow = random.pick(kinds).toLowerCase();
    api.intercept = (call, response) => {
      delayed(response, random, call.path.includes(slow) ? 60 : 15);
      return false;
    };
    const taken = new Set<string>();
    const look = (): void => {
      const state = stateIn(store);
      if (!world.states.has(state)) t.fail(`a state that never was: ${state}`);
      taken.add(state);
    };
    store.onChange(look);
    const end = performance.now() + 1500;
    let rounds = 0;
    await until(() => {
      // Now and then the other lists change, too.
      world.change(random.pick(rounds % 150 < 15 ? kinds : churning));
      look();
      return (++rounds > 60 && performance.now() > end && taken.size > 4) || undefined;
    }, 'enough states');
    await until(() => {
      look();
      return stateIn(store) === world.now || undefined;
    }, 'the last state, once it is quiet');
    t.ok(taken.size > 1, `${taken.size} states`);
    t.equal(store.closed().size, 0);
  });
}
