// The gallery of policies does what its README and its requests say.

import { readdirSync, readFileSync } from 'node:fs';
import t from 'tap';
import { parse } from 'yaml';
import { parseIstio } from '../../sidecar/config/istio.ts';
import { normalizePath } from '../../sidecar/policy/path.ts';
import type { RequestFacts, Workload } from '../../sidecar/policy/policy.ts';
import { judge, scope, show } from '../fixtures/policy.ts';

interface Gallery {
  readonly workload: Workload;
  readonly requests: readonly {
    from: string;
    method?: string;
    path?: string;
    port: number;
    protocol?: 'tcp';
    decision: string;
    because?: string;
  }[];
}

const root = new URL('../../examples/policies/', import.meta.url);
const readme = readFileSync(new URL('README.md', root), 'utf8');

for (const entry of readdirSync(root, { withFileTypes: true }).filter((one) => one.isDirectory())) {
  t.test(entry.name, async (t) => {
    const text = readFileSync(new URL(`${entry.name}/policy.yaml`, root), 'utf8');
    const { workload, requests } = parse(readFileSync(new URL(`${entry.name}/requests.yaml`, root), 'utf8')) as Gallery;
    const { authorizationPolicies: policies } = parseIstio([{ file: `${entry.name}/policy.yaml`, text }]);
    for (const {
      from,
      method = '',
      path = '',
      port,
      protocol = 'http',
      decision,
      because = 'it is allowed',
    } of requests) {
      const principal = from === 'nobody' ? null : from;
      const facts: RequestFacts = {
        protocol,
        method,
        path: path === '' ? '' : normalizePath(path),
        host: workload.serviceAccount,
        port,
      };
      t.equal(
        show(judge(policies, { ...scope, workload }, { principal, facts })),
        decision,
        `${from} ${method} ${path}: ${because}`,
      );
    }
    t.ok(readme.includes(`](${entry.name}/policy.yaml)`), 'the README shows it');
  });
}
