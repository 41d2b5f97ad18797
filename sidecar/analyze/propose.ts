// Writes the smallest AuthorizationPolicy that allows the learned traffic, as text for a person to read: with the
// evidence for each rule, rare clients marked, and a list of what cannot be proposed.

import { stringify } from 'yaml';
import type { Edge } from '../observe/learned.ts';
import type { Workload } from '../policy/policy.ts';

/** What the proposed policy is called and who it is for. */
export interface Proposal {
  readonly name: string;
  /** Calls that were seen fewer times than this are marked. */
  readonly rare: number;
  /** The workload; undefined leaves namespace and selector to the reader. */
  readonly workload: Workload | undefined;
}

/** The policy, and sentences about what was left out. */
export function proposePolicy(
  edges: readonly Edge[],
  { name, rare, workload }: Proposal,
): { text: string; left: string[] } {
  const left: string[] = [];
  const usable = edges.filter((edge) => {
    const what = edge.protocol === 'tcp' ? `TCP to port ${edge.port}` : `${edge.method} ${edge.path}`;
    if (edge.from === '')
      left.push(`${what} by a peer without identity, ${edge.allowed + edge.denied} times: no principal matches it`);
    // A refused call is no evidence that it should be allowed: the proposal would include attackers.
    else if (edge.allowed === 0) left.push(`${what} by ${edge.from}, refused ${edge.denied} times`);
    else return true;
    return false;
  });
  const groups = Map.groupBy(usable, ({ from, method, port, protocol }) => `${from}\n${protocol}\n${method}\n${port}`);
  const merged = Map.groupBy(groups.values(), (list) => {
    const [{ from, port, protocol }] = list as [Edge];
    return JSON.stringify([from, port, protocol, list.map(({ path }) => path).toSorted()]);
  });
  const lines = [
    `# Proposed from ${usable.length} kinds of allowed calls. Read it before you use it: it allows every client that was allowed then.`,
    '# It is a dry run until the annotation is removed.',
    'apiVersion: security.istio.io/v1',
    'kind: AuthorizationPolicy',
    'metadata:',
    `  name: ${name}`,
    `  namespace: ${workload?.namespace ?? 'default'}`,
    '  annotations: { istio.io/dry-run: "true" }',
    'spec:',
    ...(Object.keys(workload?.labels ?? {}).length === 0
      ? []
      : ['  selector:', `    matchLabels: ${flow(workload!.labels)}`]),
    '  action: ALLOW',
  ];
  const rules = [...merged.values()].toSorted((a, b) => (a[0]![0]!.from < b[0]![0]!.from ? -1 : 1));
  lines.push(rules.length === 0 ? '  rules: []' : '  rules:');
  for (const same of rules) lines.push(...ruleLines(same, rare));
  return { text: `${lines.join('\n')}\n`, left };
}

/** One client, one set of paths, and the methods that it used on all of them. */
function ruleLines(same: readonly (readonly Edge[])[], rare: number): string[] {
  const all = same.flat();
  const [{ from, port, protocol }] = all as [Edge, ...Edge[]];
  const paths = [...new Set(all.map(({ path }) => path))].toSorted();
  const methods = [...new Set(all.map(({ method }) => method))].toSorted();
  const operation = protocol === 'tcp' ? { ports: [String(port)] } : { methods, paths, ports: [String(port)] };
  return [
    `    # ${from}`,
    ...all.map((edge) => `    #   ${evidence(edge, rare)}`),
    `    - from: [{ source: { principals: ${flow([from.slice('spiffe://'.length)])} } }]`,
    `      to: [{ operation: ${flow(operation)} }]`,
  ];
}

function evidence({ protocol, method, path, port, allowed, denied, firstSeen, lastSeen }: Edge, rare: number): string {
  const what = protocol === 'tcp' ? `TCP :${port}` : `${method} ${path}`;
  const refused = denied > 0 ? `, refused ${denied}` : '';
  return `${what}: ${allowed} times${refused}, ${firstSeen} to ${lastSeen}${allowed < rare ? ' - RARE, is it intended?' : ''}`;
}

function flow(value: unknown): string {
  return stringify(value, { collectionStyle: 'flow', lineWidth: 0 }).trim();
}
