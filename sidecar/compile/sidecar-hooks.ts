// Compiles the capabilities that fields of sidecar.yaml configure, the same for each port. Loaded only if such a field
// is set.

import { hash } from 'node:crypto';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Settings } from '../config/settings.ts';
import { capabilities, fieldsOf } from '../edge/capabilities.ts';
import type { AnyCapability, Hooks, PlanWarning, Site } from '../edge/capability.ts';
import { layOut, type NamedHooks } from '../edge/phases.ts';
import { namedHeadersOf } from '../edge/policy-parts.ts';
import type { PortTraits } from '../exchange/exchange.ts';
import { changeRequest } from '../exchange/fields.ts';
import type { PortHooks, SidecarRules } from './sidecar-ports.ts';

/** What the compiler gets of the running sidecar. `warn` is for operators. */
export interface SidecarTools {
  /** What a capability created when the process started. */
  sharedOf(capability: string): unknown;
  warn(message: string): void;
}

/** A plan and its field. */
interface Plan {
  readonly capability: AnyCapability;
  readonly field: string;
  readonly plan: unknown;
  readonly warnings: readonly PlanWarning[];
}

/** Hooks that a sidecar cannot run. They are refused, since they would silently have no effect. */
const ofGateways = ['authorizer', 'share', 'answers', 'jwtRules'] as const satisfies readonly (keyof Hooks)[];

/**
 * Compiles the plans of `settings.capabilities`.
 * @throws SallyportError `config_invalid` for a plan that a sidecar cannot serve: it may guard the app.
 */
export function compileSidecarHooks(
  settings: Settings,
  tools: SidecarTools,
  table: readonly AnyCapability[] = capabilities,
): SidecarRules {
  const plans = plansIn(settings, table);
  for (const { field, warnings } of plans)
    for (const { path, message } of warnings) tools.warn(`${settings.file}: ${[field, ...path].join('.')}: ${message}`);
  const hooks = table.flatMap((capability): readonly [AnyCapability, NamedHooks][] => {
    const own = plans.filter((one) => one.capability === capability);
    return own.length === 0 ? [] : [[capability, hooksOf(capability, own, plans, settings, tools)]];
  });
  const on = (direction: 'inbound' | 'outbound'): PortHooks | undefined => {
    const works = (capability: AnyCapability): boolean => direction === 'inbound' || capability.inboundOnly !== true;
    const all = hooks.flatMap(([capability, own]) => (works(capability) ? own : []));
    for (const { port, protocol, ...more } of settings[direction])
      if (protocol === 'tcp')
        checkBytes(
          all,
          'policyPort' in more ? `the inbound port for ${more.policyPort}` : `the outbound port ${port}`,
          settings,
        );
    if (all.length === 0) return undefined;
    const traits = traitsOf(plans.filter(({ capability }) => works(capability)));
    return Object.freeze({ phases: layOut([...ownHeadersFirst(traits), ...all], () => undefined), traits });
  };
  return Object.freeze({ inbound: on('inbound'), outbound: on('outbound') });
}

function ownHeadersFirst({ ownHeaders }: PortTraits): NamedHooks {
  if (ownHeaders.size === 0) return [];
  return [['own-headers', { authenticate: (exchange) => changeRequest(exchange, ownHeaders, []) }]];
}

function plansIn({ capabilities: configured = {}, file }: Settings, table: readonly AnyCapability[]): readonly Plan[] {
  const fields = fieldsOf('sidecar.yaml', table);
  return Object.entries(configured).map(([field, plan]) => {
    const known = fields.get(field);
    if (known === undefined) throw invalid(file, field, 'no capability here evaluates it');
    return { capability: known.capability, field, plan, warnings: known.field.warnings?.(plan as never) ?? [] };
  });
}

function hooksOf(
  capability: AnyCapability,
  own: readonly Plan[],
  all: readonly Plan[],
  { file }: Settings,
  tools: SidecarTools,
): NamedHooks {
  const { field } = own[0]!;
  const needsBackend = own.find(({ plan }) => (capability.backends?.(plan) ?? []).length > 0);
  if (needsBackend !== undefined) throw missing(file, needsBackend.field, 'a backend');
  const planned = own.map((one) => ({ field: one.field, plan: one.plan, of: 'sidecar.yaml' }));
  const hooks = capability.compile(planned, siteOf(capability, own, all, file, tools));
  // Fails closed, as at a gateway.
  if (capability.guards !== false && hooks?.guard === undefined)
    throw invalid(file, field, 'its capability has no guard');
  if (hooks === undefined) return [];
  for (const phase of ofGateways) if (hooks[phase] !== undefined) throw missing(file, field, `'${phase}'`);
  return [[capability.name, hooks, hash('sha256', JSON.stringify(planned))]];
}

/** What a capability may use here: nothing from a gateway's documents. */
function siteOf(
  { name }: AnyCapability,
  own: readonly Plan[],
  all: readonly Plan[],
  file: string,
  tools: SidecarTools,
): Site<never> {
  const none = (field: string, what: string): never => {
    throw missing(file, field, what);
  };
  return {
    ...{ name: 'sidecar.yaml', policy: '', prefix: '/', path: '/' },
    shared: tools.sharedOf(name) as never,
    beside: (field) => all.flatMap((one) => (one.field === field ? [one.plan] : [])),
    secret: (_name, field) => none(field, 'a Secret'),
    destination: (_backend, field) => none(field, 'a backend'),
    route: () => none(own[0]!.field, 'a backend'),
    warn: (message) => tools.warn(`${file}: ${message}`),
    files: () => undefined,
  };
}

/** The guards' headers and secrets, for all requests of a port. */
function traitsOf(plans: readonly Plan[]): PortTraits {
  const guards = plans.flatMap(({ capability, field, plan }) =>
    capability.guards === false ? [] : [{ capability, field, plan }],
  );
  const of = (trait: 'ownHeaders' | 'secretParams' | 'secretPaths'): string[] =>
    guards.flatMap(({ capability, field, plan }) => capability[trait]?.(plan, field) ?? []);
  return Object.freeze({
    ownHeaders: new Set(of('ownHeaders').map((one) => one.toLowerCase())),
    // Each counts as a part that authenticates or authorizes.
    namedHeaders: new Set(guards.flatMap(({ field, plan }) => [...namedHeadersOf({ [field]: plan })])),
    secrets: Object.freeze({ params: [...new Set(of('secretParams'))], paths: new Set(of('secretPaths')) }),
  });
}

/** A guard cannot be evaluated for TCP, so a TCP port would be a way around it. */
function checkBytes(hooks: NamedHooks, port: string, { file }: Settings): void {
  const [guard] = hooks.find(([, { guard: own }]) => own !== undefined) ?? [];
  if (guard !== undefined)
    throw new SallyportError(
      'config_invalid',
      `${file}: ${port} is for TCP, but ${guard} evaluates requests only: give it a sidecar of its own`,
    );
}

function missing(file: string, field: string, what: string): SallyportError {
  return invalid(file, field, `it needs ${what}, which a sidecar does not have: use a gateway`);
}

function invalid(file: string, field: string, why: string): SallyportError {
  return new SallyportError('config_invalid', `${file}: '${field}': ${why}`);
}
