// Runs the table of capabilities for one rule: collects each one's plans from the documents that apply, and compiles
// them into hooks. It names no capability.

import { hash } from 'node:crypto';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { GatewayConfig } from '../config/gateway-config.ts';
import type { Settings } from '../config/settings.ts';
import type { BackendTrafficPolicy } from '../documents/envoy-gateway/backend-traffic-policy.ts';
import { capabilities, fieldsOf } from '../edge/capabilities.ts';
import type { AnyCapability, Field, Hooks, NamedBackend, Planned, Site } from '../edge/capability.ts';
import type { NamedHooks } from '../edge/phases.ts';
import { type GuardingPolicy, type OwnPolicy, type SecurityPolicy, titleOf } from '../edge/policy.ts';
import { traitsOf, unevaluatedParts } from '../edge/policy-parts.ts';
import type { Route } from '../exchange/exchange.ts';
import { changeRequest } from '../exchange/fields.ts';
import type { Destination } from '../exchange/upstream.ts';
import { keyOf, type RouteFilter, type RouteRule } from '../routing/documents.ts';

/** What the process provides for compilation. */
export interface HookTools {
  /** What a capability created at the start of the process. */
  sharedOf(capability: string): unknown;
  /** The hooks that `make` made for this key before, or makes now. Kept while each generation uses them. */
  kept(key: string, make: () => Hooks | undefined): Hooks | undefined;
  /** Warns the operator about the documents. */
  warn(message: string): void;
}

/** The documents that apply to one rule. */
export interface Applied {
  readonly name: string;
  readonly prefix: string;
  readonly path: string;
  readonly rule: RouteRule;
  /** The rule's filters, then those of one backend. */
  readonly filters: readonly RouteFilter[];
  readonly security: SecurityPolicy | undefined;
  readonly traffic: BackendTrafficPolicy | undefined;
  /** Of our own kinds. */
  readonly own: readonly OwnPolicy[];
  /** The rule's own backends and those of its filters, by the reference that names them. */
  route(backend: object): Route | undefined;
}

type Policies = Pick<Applied, 'security' | 'traffic' | 'own'>;

/** Where a plan of a capability was found. */
export type PlanKind = Field['kind'];

/** Compiles the hooks of one generation from the table of capabilities. */
export class HookCompiler {
  readonly #config: GatewayConfig;
  readonly #settings: Settings;
  readonly #tools: HookTools;
  readonly #destinationOf: (policy: GuardingPolicy, backend: NamedBackend, field: string) => Destination;
  readonly #table: readonly AnyCapability[];
  /** Filter types of routes, each with the field of its plan. */
  readonly #filterKeys: ReadonlyMap<string, string>;
  readonly #digests = new WeakMap<object, string>();

  constructor(
    config: GatewayConfig,
    settings: Settings,
    tools: HookTools,
    destinationOf: (policy: GuardingPolicy, backend: NamedBackend, field: string) => Destination,
    table: readonly AnyCapability[] = capabilities,
  ) {
    this.#config = config;
    this.#settings = settings;
    this.#tools = tools;
    this.#destinationOf = destinationOf;
    this.#table = table;
    this.#filterKeys = new Map(
      [...fieldsOf('filter', table)].map(([type, { field }]) => [type, field.filter!.key] as const),
    );
  }

  /**
   * The hooks of all capabilities for a rule, in the order of the table. A capability that fails to compile has none;
   * `failed` gets the reason, and the kind of document its plan is from.
   */
  compile(applied: Applied, failed: (error: unknown, of: PlanKind) => void): NamedHooks {
    const policies = policiesIn(applied);
    for (const policy of policies) {
      const [forgotten] = unevaluatedParts(policy, this.#table);
      if (forgotten === undefined) continue;
      const why = `${titleOf(policy)}: nothing here evaluates '${forgotten}'`;
      failed(new SallyportError('config_invalid', why), fieldKindOf(policy));
    }
    const hooks = this.#table.flatMap((capability): NamedHooks => {
      const plans = this.#plansOf(capability, applied);
      if (plans.length === 0 && capability.always !== true) return [];
      try {
        return this.#hooksOf(capability, plans, applied);
      } catch (error) {
        failed(error, plans[0]?.kind ?? 'filter');
        return [];
      }
    });
    return [...policies.flatMap((policy) => ownHeadersFirst(policy, this.#table)), ...hooks];
  }

  /** Without a plan a capability guards nothing. */
  #hooksOf(
    capability: AnyCapability,
    plans: readonly (Planned<unknown> & { readonly kind: PlanKind })[],
    applied: Applied,
  ): NamedHooks {
    const { name } = capability;
    const policies = policiesIn(applied).filter((one) => plans.some(({ kind }) => kind === fieldKindOf(one)));
    // Without `combines` the first plan applies: the other policy, which may guard, would have no effect.
    if (policies.length > 1 && capability.combines !== true)
      throw new SallyportError('config_invalid', `${policies.map(titleOf).join(' and ')} both configure '${name}'`);
    const key = policies.length === 0 ? undefined : policies.map((one) => this.#digestOf(one, capability)).join(' ');
    const make = (): Hooks | undefined => capability.compile(plans, this.#site(capability, applied));
    const hooks =
      capability.perPolicy === true && key !== undefined
        ? this.#perPolicy(capability, plans, policies, `${name} ${key}`)
        : make();
    // Fails closed: a part that guards callers, but has no guard, would let every caller pass.
    if (capability.guards !== false && plans.length > 0 && hooks?.guard === undefined)
      throw new SallyportError('config_invalid', `nothing guards '${plans[0]!.field}'`);
    if (hooks === undefined) return [];
    return [[name, plans.length === 0 ? { ...hooks, guard: undefined } : hooks, key]];
  }

  /** The hooks for requests that no rule matches: capabilities that gateway.yaml names, and those that always apply. */
  forPort(): NamedHooks {
    const nothing: Applied = {
      ...{
        name: 'gateway.yaml',
        prefix: '/',
        path: '/',
        rule: {},
        filters: [],
        security: undefined,
        traffic: undefined,
        own: [],
      },
      route: () => undefined,
    };
    return this.compile(nothing, (error) => {
      throw error;
    });
  }

  /** Compiled once for its policies, and again only if one of them or of their Secrets changes. */
  #perPolicy(
    capability: AnyCapability,
    plans: readonly Planned<unknown>[],
    policies: readonly GuardingPolicy[],
    key: string,
  ): Hooks | undefined {
    const applied: Applied = {
      ...{ name: titleOf(policies[0]!), prefix: '/', path: '/', rule: {}, filters: [], traffic: undefined },
      security: policies.find((one): one is SecurityPolicy => !('kind' in one)),
      own: policies.filter((one) => 'kind' in one),
      route: () => undefined,
    };
    return this.#tools.kept(key, () => capability.compile(plans, this.#site(capability, applied)));
  }

  #plansOf({ fields }: AnyCapability, applied: Applied): (Planned<unknown> & { readonly kind: PlanKind })[] {
    return fields.flatMap((field) =>
      this.#found(field.kind, field.name, applied).map((plan) => ({
        ...{ kind: field.kind, field: field.name, plan },
        of: nameOf(field.kind, applied),
      })),
    );
  }

  /** What the documents at this place set in one field. */
  #found(kind: PlanKind, name: string, { filters, rule, security, traffic, own }: Applied): unknown[] {
    if (kind === 'filter') {
      const field = this.#filterKeys.get(name)!;
      return filters.flatMap((one) => (one.type === name ? [fieldOf(one, field)] : []));
    }
    const holder =
      kind === 'SecurityPolicy'
        ? security
        : kind === 'BackendTrafficPolicy'
          ? traffic
          : kind === 'rule'
            ? rule
            : kind === 'gateway.yaml'
              ? this.#settings.gateway
              : own.find((one) => fieldKindOf(one) === kind);
    const plan = holder === undefined ? undefined : fieldOf(holder, name);
    return plan === undefined || plan === false ? [] : [plan];
  }

  #site(capability: AnyCapability, applied: Applied): Site<never> {
    const policies = policiesIn(applied);
    const policyOf = (field: string): GuardingPolicy =>
      applied.own.find(({ kind }) => kind === field) ?? applied.security!;
    const isRead = (one: GuardingPolicy): boolean => capability.fields.some(({ kind }) => kind === fieldKindOf(one));
    const policy = policies.find(isRead) ?? applied.security;
    const tools = this.#tools;
    return {
      name: applied.name,
      policy: policy === undefined ? '' : keyOf(policy),
      shared: tools.sharedOf(capability.name) as never,
      prefix: applied.prefix,
      path: applied.path,
      beside: (field) =>
        [...servedKinds, `sallyport.dev/${field}` as const].flatMap((kind) =>
          kind === 'filter' && !this.#filterKeys.has(field) ? [] : this.#found(kind, field, applied),
        ),
      secret: (name, field) => this.#secret(policyOf(field), name, field),
      destination: (backend, field) => ({
        destination: this.#destinationOf(policyOf(field), backend, field),
        authority: `${backend.name}.${backend.namespace ?? namespaceOf(policyOf(field), field)}:${backend.port ?? 80}`,
      }),
      route: applied.route,
      warn: (message) => tools.warn(`${policy === undefined ? applied.name : titleOf(policy)}: ${message}`),
      files: (field) => this.#files(field),
    };
  }

  #secret(policy: GuardingPolicy, name: string, field: string): Readonly<Record<string, string>> {
    const namespace = namespaceOf(policy, field);
    const secret = this.#config.documents.secrets.find((one) => one.namespace === namespace && one.name === name);
    if (secret === undefined)
      throw new SallyportError(
        'config_invalid',
        `${titleOf(policy)}: there is no Secret '${name}' in namespace '${namespace}'`,
      );
    return secret.spec.data;
  }

  /** The files that gateway.yaml names in `field`: one text under the field's name, or a directory's files by name. */
  #files(field: string): Readonly<Record<string, string>> | undefined {
    const read = fieldOf(this.#config, field);
    return typeof read === 'string' ? { [field]: read } : (read as Readonly<Record<string, string>> | undefined);
  }

  /** Covers the policy, the Secrets that it names, and the files that the capability may read. */
  #digestOf(policy: GuardingPolicy, { files = [] }: AnyCapability): string {
    const texts = files.map((name) => this.#files(name));
    return `${this.#digestOfPolicy(policy)} ${hash('sha256', JSON.stringify(texts))}`;
  }

  #digestOfPolicy(policy: GuardingPolicy): string {
    const known = this.#digests.get(policy);
    if (known !== undefined) return known;
    const text = JSON.stringify(policy);
    const namespaces = new Set([policy.namespace, ...Object.values(namespacesOf(policy))]);
    const secrets = this.#config.documents.secrets.filter(
      ({ namespace, name }) => namespaces.has(namespace) && text.includes(JSON.stringify(name)),
    );
    const digest = hash('sha256', JSON.stringify([text, secrets.map(({ name, spec }) => [name, spec.data])]));
    this.#digests.set(policy, digest);
    return digest;
  }
}

/** The document of a plan. */
function nameOf(kind: PlanKind, { name, ...policies }: Applied): string {
  const policy = blamedOn(kind, policies);
  return policy === undefined ? name : keyOf(policy);
}

/** The namespace of the Secrets and backends of a policy's field. */
export function namespaceOf(policy: GuardingPolicy, field: string): string {
  return namespacesOf(policy)[field] ?? policy.namespace;
}

function namespacesOf(policy: GuardingPolicy): Readonly<Record<string, string>> {
  return ('namespaces' in policy ? policy.namespaces : undefined) ?? {};
}

function policiesIn({ security, own }: Pick<Applied, 'security' | 'own'>): readonly GuardingPolicy[] {
  return security === undefined ? own : [security, ...own];
}

/** The kind of field that a policy has plans for. */
function fieldKindOf(policy: object): PlanKind {
  return 'kind' in policy ? `sallyport.dev/${policy.kind}` : 'SecurityPolicy';
}

/** Removes what only the gateway may set under this policy, before any step sets it. */
function ownHeadersFirst(policy: GuardingPolicy, table: readonly AnyCapability[]): NamedHooks {
  const { ownHeaders } = traitsOf(policy, table);
  return ownHeaders.size === 0
    ? []
    : [['own-headers', { authenticate: (exchange) => changeRequest(exchange, ownHeaders, []) }]];
}

/** The kind of policy that caused a rule's failure; undefined if it is the route itself. */
export function blamedOn(
  of: PlanKind,
  { security, traffic, own }: Policies,
): GuardingPolicy | BackendTrafficPolicy | undefined {
  if (of === 'SecurityPolicy') return security;
  return of === 'BackendTrafficPolicy' ? traffic : own.find((one) => fieldKindOf(one) === of);
}

/** True if one client's requests to this rule stay with one endpoint. */
export function sticks(rule: RouteRule, table: readonly AnyCapability[] = capabilities): boolean {
  return table.some(
    ({ sticks: isSticky, fields }) =>
      isSticky === true && fields.some(({ kind, name }) => kind === 'rule' && fieldOf(rule, name) !== undefined),
  );
}

/** Filters of a rule that replace a field of one of its policies. */
export function displacedBy(
  filters: readonly RouteFilter[],
  policy: object | undefined,
  table: readonly AnyCapability[] = capabilities,
): readonly { readonly type: string; readonly field: string }[] {
  if (policy === undefined) return [];
  return table.flatMap(({ fields, combines }) => {
    if (combines === true) return [];
    const filter = fields.find(({ kind }) => kind === 'filter');
    const displaced = fields.find(({ kind }) => kind === fieldKindOf(policy));
    if (filter === undefined || displaced === undefined || fieldOf(policy, displaced.name) === undefined) return [];
    return filters.some(({ type }) => type === filter.name) ? [{ type: filter.name, field: displaced.name }] : [];
  });
}

/**
 * The kinds of field whose plans are found here, beside our own kinds of document. A capability with a field of another
 * kind gets no plan from it.
 */
export const servedKinds = ['filter', 'rule', 'SecurityPolicy', 'BackendTrafficPolicy', 'gateway.yaml'] as const;

function fieldOf(holder: object, name: string): unknown {
  return Object.hasOwn(holder, name) ? (holder as Readonly<Record<string, unknown>>)[name] : undefined;
}
