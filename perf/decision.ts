// The duration of a decision by the number of rules. As in a mesh, each rule names one peer; ten rules name the peer
// under test. The lookup of a peer's rules happens once per connection and is not included.

import { compilePolicies } from '../sidecar/policy/compile.ts';
import { decide, policiesFor } from '../sidecar/policy/decide.ts';
import { createFacts, type RequestFacts } from '../sidecar/policy/facts.ts';
import type { AuthorizationPolicy } from '../sidecar/policy/policy.ts';

const decisions = 400_000;

/** The called workload. */
export const scope = {
  trustDomain: 'perf.test',
  trustDomainAliases: [],
  rootNamespace: 'istio-system',
  workload: { namespace: 'shop', serviceAccount: 'orders', labels: { app: 'orders' } },
  defaultAction: 'deny',
} as const;

/** Mean microseconds per decision with `rules` ALLOW rules. Half of the requests are allowed. */
export async function measureDecisionUs(rules: number): Promise<number> {
  const set = compilePolicies(makePolicies(rules), scope);
  const peer = policiesFor(set, 'spiffe://perf.test/ns/shop/sa/peer-0');
  const requests: RequestFacts[] = Array.from({ length: 16 }, (_, i) =>
    createFacts({
      principal: 'spiffe://perf.test/ns/shop/sa/peer-0',
      protocol: 'http',
      method: 'GET',
      path: i % 2 === 0 ? `/v1/orders/${i}` : `/admin/${i}`,
      host: 'orders',
      port: 8080,
    }),
  );
  const run = (count: number): number => {
    let allowed = 0;
    for (let i = 0; i < count; i++) if (decide(peer, requests[i & 15]!).policy !== 'none') allowed++;
    return allowed;
  };
  run(decisions / 4);
  const started = performance.now();
  const allowed = run(decisions);
  const took = performance.now() - started;
  // If everything or nothing was allowed, the run measured something else.
  if (allowed !== decisions / 2) throw new Error(`${allowed} of ${decisions} were allowed; half was expected`);
  return (took * 1000) / decisions;
}

/** `rules` ALLOW rules, in policies of a hundred. Ten name `peer-0`, and one of those allows it `/v1/orders/`. */
export function makePolicies(rules: number): AuthorizationPolicy[] {
  const perPolicy = 100;
  const ours = Math.max(1, Math.floor(rules / 10));
  return Array.from({ length: Math.ceil(rules / perPolicy) }, (_, p) => ({
    name: `policy-${p}`,
    namespace: 'shop',
    action: 'ALLOW',
    dryRun: false,
    file: 'perf.yaml',
    line: 1,
    rules: Array.from({ length: Math.min(perPolicy, rules - p * perPolicy) }, (_, r) => {
      const number = p * perPolicy + r;
      const concerns = number % ours === 0;
      return {
        from: [{ principals: [`perf.test/ns/shop/sa/peer-${concerns ? 0 : number}`] }],
        to: [
          {
            methods: ['GET', 'HEAD'],
            paths: [concerns && number > 0 ? `/v${number}/*` : '/v1/orders/*'],
            ports: ['8080'],
          },
        ],
      };
    }),
  }));
}
