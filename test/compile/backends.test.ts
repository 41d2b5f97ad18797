// The retries of a rule: what a BackendTrafficPolicy says of them reaches the request.

import t from 'tap';
import { parseYaml } from '../../cert-agent/base/yaml.ts';
import { retryOf } from '../../sidecar/compile/backends.ts';
import { readBackendTrafficPolicy } from '../../sidecar/documents/envoy-gateway/backend-traffic-policy.ts';
import { backoffMs } from '../../sidecar/upstream/retry.ts';

function retryIn(retry: string) {
  const text = `apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: { name: web, namespace: shop }
spec:
  targetRef: { group: gateway.networking.k8s.io, kind: HTTPRoute, name: web }
  retry: ${retry}
`;
  const read = readBackendTrafficPolicy(parseYaml(text, 'x.yaml').documents[0]!, 'x.yaml');
  if ('problems' in read) throw new Error(read.problems.map(({ message }) => message).join('\n'));
  return retryOf({}, read.value)!;
}

t.test('the longest wait is that of the policy, or ten times the first one', (t) => {
  const longest = (retry: string): number => backoffMs(retryIn(retry), 20, () => 1);
  t.equal(longest('{ perRetry: { backOff: { baseInterval: 100ms, maxInterval: 150ms } } }'), 150);
  t.equal(longest('{ perRetry: { backOff: { baseInterval: 100ms } } }'), 1000);
  t.equal(longest('{ perRetry: { backOff: { maxInterval: 60ms } } }'), 60);
  t.equal(longest('{}'), 250);
  t.end();
});
