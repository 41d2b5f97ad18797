// Attaching policies to many routes: the work is counted, not timed.

import t from 'tap';
import type { GatewayDocuments, RouteDocument } from '../../sidecar/routing/documents.ts';
import { type Attachable, attachPolicies, type PolicyKind, type RulePlace } from '../../sidecar/routing/policies.ts';

const kind: PolicyKind<Attachable> = {
  ...{ kind: 'SecurityPolicy', plural: 'SecurityPolicies', isMerged: false },
  refusalOf: () => undefined,
  closing: (policy) => policy,
  mergedWith: (policy) => policy,
  lostOf: () => [],
  weakening: () => [],
};
const names = Array.from({ length: 200 }, (_, index) => `r${index}`);

t.test('each route is looked at once, however many policies and targets there are', async (t) => {
  let reads = 0;
  const routes = names.map((name) => ({
    ...{ kind: 'HTTPRoute', namespace: 'team', spec: { rules: [{ name: 'one' }] } },
    get name() {
      reads++;
      return name;
    },
  })) as unknown as RouteDocument[];
  const documents = { gateways: [], refused: [], routes } as unknown as GatewayDocuments;
  const group = 'gateway.networking.k8s.io';
  const policies = names.map(
    (name, index): Attachable => ({
      ...{ namespace: 'team', name },
      targets: names
        .slice(index, index + 16)
        .map((of) => ({ group, kind: 'HTTPRoute', name: of, ...(index % 2 === 0 ? {} : { sectionName: 'one' }) })),
    }),
  );
  const { statuses, owners } = attachPolicies(policies, documents, 0, kind);
  t.equal(statuses.length, names.length);
  t.equal(owners.size, 2 * names.length - 1, 'every route, and every rule but that of the first');
  t.equal(reads, names.length);
});

t.test('where there is no policy of a kind, no rule is looked at', async (t) => {
  const documents = { gateways: [], refused: [], routes: [] } as unknown as GatewayDocuments;
  const place = new Proxy({} as RulePlace, {
    get: (_, name) => {
      throw new Error(`${String(name)} is read`);
    },
  });
  t.equal(attachPolicies([], documents, 0, kind).policyFor(place), undefined);
});
