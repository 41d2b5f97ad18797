// The cost of a decision by the number of rules, cold and warm, allowed and denied, compared with node-casbin and Cedar
// (WASM) on the same rules. Both are installed by hand; the table reports those that are missing.
//
//   npm install --no-save casbin @cedar-policy/cedar-wasm && npm run perf:decisions

import { compilePolicies } from '../sidecar/policy/compile.ts';
import { decide, policiesFor } from '../sidecar/policy/decide.ts';
import { createFacts, type RequestFacts } from '../sidecar/policy/facts.ts';
import { isPermit } from '../sidecar/policy/policy.ts';
import { makePolicies, scope } from './decision.ts';

interface Engine {
  readonly name: string;
  /** Loads `rules` rules; the duration is measured. */
  load(rules: number): Promise<Loaded>;
}

interface Loaded {
  /** True if this call by this peer is allowed. */
  allows(peer: string, path: string): boolean;
}

/** The time limit for repeating a decision. */
const budgetMs = 300;

const ours: Engine = {
  name: 'Sallyport',
  async load(rules) {
    const set = compilePolicies(makePolicies(rules), scope);
    const facts = new Map<string, RequestFacts>();
    return {
      allows(peer, path) {
        const principal = `spiffe://perf.test/ns/shop/sa/${peer}`;
        const key = `${peer} ${path}`;
        let known = facts.get(key);
        if (known === undefined) {
          known = createFacts({ principal, method: 'GET', path, host: 'orders', port: 8080 });
          facts.set(key, known);
        }
        return isPermit(decide(policiesFor(set, principal), known));
      },
    };
  },
};

/** The peer and path prefix of every rule: what all three engines can express. */
function* rulesAsTriples(count: number): Generator<readonly [peer: string, prefix: string]> {
  for (const policy of makePolicies(count))
    for (const { from, to } of policy.rules)
      yield [from![0]!['principals']![0]!.split('/').at(-1)!, to![0]!['paths']![0]!.replace(/\*$/, '')];
}

// Hidden from the type checker: they are not dependencies.
const load = (name: string): Promise<unknown> => import(name);

const casbin: Engine = {
  name: 'node-casbin',
  async load(rules) {
    const { newEnforcer, newModelFromString, StringAdapter } = (await load('casbin')) as Casbin;
    const model = newModelFromString(
      '[request_definition]\nr = sub, obj, act\n[policy_definition]\np = sub, obj, act\n[policy_effect]\ne = some(where (p.eft == allow))\n[matchers]\nm = r.sub == p.sub && keyMatch(r.obj, p.obj) && regexMatch(r.act, p.act)',
    );
    const lines = Array.from(rulesAsTriples(rules), ([peer, prefix]) => `p, ${peer}, ${prefix}*, ^(GET|HEAD)$`);
    const enforcer = await newEnforcer(model, new StringAdapter(lines.join('\n')));
    return { allows: (peer, path) => enforcer.enforceSync(peer, path, 'GET') };
  },
};

interface Casbin {
  newModelFromString(text: string): object;
  StringAdapter: new (text: string) => object;
  newEnforcer(model: object, adapter: object): Promise<{ enforceSync(...request: string[]): boolean }>;
}

const cedar: Engine = {
  name: 'Cedar (WASM)',
  async load(rules) {
    const { preparsePolicySet, statefulIsAuthorized } = (await load('@cedar-policy/cedar-wasm/nodejs')) as Cedar;
    const text = Array.from(
      rulesAsTriples(rules),
      ([peer, prefix]) =>
        `permit(principal == Peer::"${peer}", action in [Action::"GET", Action::"HEAD"], resource) when { context.path like "${prefix}*" && context.port == 8080 };`,
    ).join('\n');
    const id = `rules-${rules}`;
    const parsed = preparsePolicySet(id, { staticPolicies: text });
    if (parsed.type !== 'success') throw new Error(JSON.stringify(parsed));
    return {
      allows(peer, path) {
        const answer = statefulIsAuthorized({
          principal: { type: 'Peer', id: peer },
          action: { type: 'Action', id: 'GET' },
          resource: { type: 'App', id: 'orders' },
          context: { path, port: 8080 },
          preparsedPolicySetId: id,
          entities: [],
        });
        if (answer.type !== 'success') throw new Error(JSON.stringify(answer));
        return answer.response.decision === 'allow';
      },
    };
  },
};

interface Cedar {
  preparsePolicySet(id: string, policies: object): { type: string };
  statefulIsAuthorized(call: object): { type: string; response: { decision: string } };
}

/** Mean microseconds of `run`, repeated until the budget is used up. */
function mean(run: (turn: number) => void): number {
  let done = 0;
  const started = performance.now();
  while (performance.now() - started < budgetMs) {
    const until = done === 0 ? 1 : done * 2;
    for (; done < until && done < 2_000_000; done++) run(done);
    if (done >= 2_000_000) break;
  }
  return ((performance.now() - started) * 1000) / done;
}

function row(loaded: Loaded, rules: number): string[] {
  const check = (peer: string, path: string, wanted: boolean): void => {
    if (loaded.allows(peer, path) !== wanted)
      throw new Error(`${peer} ${path} should be ${wanted ? 'allowed' : 'denied'}`);
  };
  // Cold: new peers, each once.
  const peers = Array.from({ length: Math.min(200, rules) }, (_, i) => rules - 1 - i).filter((n) => n > 0);
  const started = performance.now();
  for (const n of peers) loaded.allows(`peer-${n}`, '/v1/orders/1');
  const cold = ((performance.now() - started) * 1000) / peers.length;
  check('peer-0', '/v1/orders/1', true);
  check('peer-0', '/admin/1', false);
  const allowed = mean(() => loaded.allows('peer-0', '/v1/orders/1'));
  const denied = mean(() => loaded.allows('peer-0', '/admin/1'));
  return [cold, allowed, denied].map((us) => (us < 10 ? us.toFixed(2) : us.toFixed(0)));
}

console.log('| engine | rules | load ms | cold us | allowed us | denied us |\n|---|---|---|---|---|---|');
for (const engine of [ours, casbin, cedar]) {
  for (const rules of [10, 100, 1000, 10_000, 100_000]) {
    try {
      const started = performance.now();
      const loaded = await engine.load(rules);
      const took = performance.now() - started;
      console.log(`| ${engine.name} | ${rules} | ${took.toFixed(0)} | ${row(loaded, rules).join(' | ')} |`);
    } catch (error) {
      console.log(`| ${engine.name} | ${rules} | skipped: ${String(error).split('\n')[0]} |`);
      if (rules === 10) break;
    }
  }
}
