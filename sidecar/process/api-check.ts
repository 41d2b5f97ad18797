// Compares the OpenAPI documents of a gateway with what its routes serve, and with who its policies let in. Serves
// nothing.

import { configError } from '../../cert-agent/base/yaml.ts';
import { refusing } from '../compile/backends.ts';
import { type PolicyInForce, policiesInForce } from '../compile/reviews.ts';
import { kindOfPolicy, titleOf } from '../edge/policy.ts';
import { askingParts } from '../edge/policy-parts.ts';
import type { Operation, Scheme } from '../edge/validation/api-plan.ts';
import type { ValidationPlan } from '../edge/validation/schema.ts';
import type { Edge, Exchange, Found } from '../exchange/exchange.ts';
import { emptyFields } from '../exchange/message.ts';
import { planDry } from './dry-run.ts';

/** What does not fit, with a stable code. */
export interface Finding {
  readonly code:
    | 'operation_not_served'
    | 'operation_not_compared'
    | 'rule_not_described'
    | 'security_not_asked'
    | 'security_not_described'
    | 'security_differs';
  /** `RequestValidation shop/orders`. */
  readonly policy: string;
  /** Where the policy begins. */
  readonly file: string;
  readonly line: number;
  /** Absent if it is about a rule. */
  readonly method?: string;
  /** The template of the operation, behind the path of its server. */
  readonly path?: string;
  readonly operationId?: string;
  /** Without the operation. */
  readonly reason: string;
  readonly message: string;
}

/** The comparison of all documents of a gateway. */
export interface ApiCheck {
  readonly findings: readonly Finding[];
  /** The number of documents that were compared. */
  readonly documents: number;
  readonly operations: number;
}

/**
 * Compares every OpenAPI document in force under gateway.yaml, or in a directory of documents.
 * @throws SallyportError `config_invalid` with the problems of every RequestValidation, or `config_unreadable`.
 */
export async function checkApis(path: string, now: number): Promise<ApiCheck> {
  const { gateway, configuration, plan, pools } = await planDry(path, now);
  const broken = configuration.gateway!.broken.filter(({ kind }) => kind === 'RequestValidation');
  if (broken.length > 0) throw configError(broken.flatMap(({ problems }) => problems));
  const nowhere = refusing('rule_broken', 'nothing is served here');
  const ports = gateway.compile(configuration, new Map(pools.map(({ name }) => [name, nowhere])));
  const edges = ports.flatMap(({ rules }) => rules.edge ?? []);
  const all = policiesInForce(plan);
  const securityOf = (key: string) =>
    all.find(([policy, , rules]) => kindOfPolicy(policy) === 'SecurityPolicy' && rules.has(key))?.[0];
  const compared = all.flatMap((inForce) => {
    const operations = operationsOf(inForce);
    return operations === undefined ? [] : [{ inForce, operations }];
  });
  return {
    findings: compared.flatMap(({ inForce, operations }) => compareOne(inForce, operations, edges, securityOf)),
    documents: compared.length,
    operations: compared.reduce((sum, { operations }) => sum + operations.length, 0),
  };
}

function operationsOf([policy]: PolicyInForce): readonly Operation[] | undefined {
  const plan = (policy as unknown as Readonly<Record<string, unknown>>)['RequestValidation'];
  return (plan as ValidationPlan | undefined)?.api?.operations;
}

type SecurityOf = (rule: string) => PolicyInForce[0] | undefined;

function compareOne(
  [policy, { hosts }, rules]: PolicyInForce,
  operations: readonly Operation[],
  edges: readonly Edge[],
  securityOf: SecurityOf,
): readonly Finding[] {
  const head = { policy: titleOf(policy), file: policy.file, line: policy.line };
  const described = new Set<string>();
  const findings = operations.flatMap((operation): Finding[] => {
    const { method, operationId } = operation;
    const path = `${operation.basePaths[0] ?? ''}${operation.path}`;
    const find = (code: Finding['code'], reason: string): Finding => ({
      ...{ code, ...head, method, path },
      ...(operationId === undefined ? {} : { operationId }),
      ...{ reason, message: `${method} ${path}: ${reason}` },
    });
    const served = operation.basePaths.flatMap((base) =>
      hosts.flatMap((host) => edges.flatMap((edge) => servedBy(edge, host, base, operation))),
    );
    if (served.length === 0) return [find('operation_not_served', 'no route serves it')];
    const keys = [...new Set(served.map(({ listener, rule }) => `${listener} ${rule!.name}`))];
    for (const key of keys) described.add(key);
    const own = keys.filter((key) => rules.has(key));
    if (own.length === 0)
      return [find('operation_not_compared', `${served[0]!.rule!.name} serves it, and is not under this document`)];
    return own.flatMap((key) => {
      const problem = compareSecurity(operation, securityOf(key));
      return problem === undefined ? [] : [find(problem.code, problem.message)];
    });
  });
  const idle = [...rules].filter((key) => !described.has(key));
  return [
    ...new Map(findings.map((one) => [`${one.code} ${one.message}`, one])).values(),
    ...idle.map((key): Finding => {
      const message = `${key.slice(key.lastIndexOf(' ') + 1)}: no operation describes what it serves`;
      return { code: 'rule_not_described', ...head, reason: message, message };
    }),
  ];
}

/** The rule that a request of this operation reaches. Its variables are `1`, which is a number and a name. */
function servedBy(edge: Edge, host: string, base: string, { method, path }: Operation): Found[] {
  const authority = host.replace(/^\*\.?/, host === '*' ? 'any.invalid' : 'any.');
  const asked = { authority, method, path: base + path.replace(/\{[^}]*\}/g, '1'), fields: emptyFields };
  const found = edge.find(asked as unknown as Exchange);
  return found.rule === undefined ? [] : [found];
}

/** The parts of a SecurityPolicy that satisfy a scheme. */
const satisfying: readonly (readonly [scheme: RegExp, parts: readonly string[]])[] = [
  [/^http bearer$/, ['jwt', 'oidc', 'introspection', 'extAuth']],
  [/^(?:oauth2|openIdConnect)\b/, ['jwt', 'oidc', 'introspection', 'extAuth']],
  [/^http basic$/, ['basicAuth', 'extAuth']],
  [/^apiKey\b/, ['apiKeyAuth', 'extAuth']],
  [/^/, ['extAuth', 'authorization']],
];

function compareSecurity(
  { security }: Operation,
  policy: PolicyInForce[0] | undefined,
): { readonly code: Finding['code']; readonly message: string } | undefined {
  const parts = policy === undefined ? [] : askingParts(policy).filter((one) => one !== 'csrf');
  const title = policy === undefined ? 'no SecurityPolicy' : titleOf(policy);
  const wanted = (security ?? []).filter((one) => one.length > 0);
  const isOpen = security === undefined || wanted.length < security.length || security.length === 0;
  if (wanted.length === 0)
    return parts.length === 0
      ? undefined
      : {
          code: 'security_not_described',
          message: `${title} asks for ${parts.join(' and ')}, and its security is empty`,
        };
  if (parts.length === 0)
    return isOpen
      ? undefined
      : { code: 'security_not_asked', message: `its security needs ${shown(wanted)}, and ${title} asks for anything` };
  const fits = wanted.some((all) => all.every((one) => partsFor(one).some((part) => parts.includes(part))));
  if (fits) return undefined;
  return {
    code: 'security_differs',
    message: `its security needs ${shown(wanted)}, and ${title} asks for ${parts.join(' and ')}`,
  };
}

function partsFor({ type }: Scheme): readonly string[] {
  return satisfying.find(([scheme]) => scheme.test(type))![1];
}

function shown(wanted: readonly (readonly Scheme[])[]): string {
  return wanted.map((all) => all.map(({ name, type }) => `${name} (${type})`).join(' and ')).join(' or ');
}
