// What a plan of `authorization` has to do with the rest of its policy.

import type { PlanWarning } from '../capability.ts';
import type { AuthorizationPlan } from './schema.ts';

/** The fields of the same policy that rules refer to. A field with a problem of its own is as written. */
interface Others {
  readonly jwt?: { readonly providers?: readonly { readonly name: string }[] };
  readonly oidc?: unknown;
  readonly introspection?: unknown;
  readonly apiKeyAuth?: unknown;
  readonly basicAuth?: unknown;
}

/** The plan, with rules named as in Envoy Gateway's logs. `of` is the `namespace/name` of their policy. */
export function nameRules({ rules, ...rest }: AuthorizationPlan, of: string): AuthorizationPlan {
  const nameOf = (name: string): string => `securitypolicy/${of}/authorization/rule/${name}`;
  return { ...rest, rules: rules.map((one) => ({ ...one, name: nameOf(one.name) })) };
}

/** Rules about tokens that no provider verifies, and about clients that nothing identifies. */
export function mismatches({ rules = [] }: Partial<AuthorizationPlan>, others: object): readonly PlanWarning[] {
  const { jwt, oidc, introspection, apiKeyAuth, basicAuth } = others as Others;
  // `oidc` and `introspection` are names of those parts of the policy.
  const names = [
    ...(jwt?.providers ?? []).map(({ name }) => name),
    ...(oidc === undefined ? [] : ['oidc']),
    ...(introspection === undefined ? [] : ['introspection']),
  ];
  return rules.flatMap(({ jwt: claimed, clientIds = [] }, index) => {
    const path = ['rules', index, 'principal'];
    const found: PlanWarning[] = [];
    const provider = claimed?.provider;
    if (provider !== undefined && !names.includes(provider)) {
      const message =
        names.length === 0
          ? `'${provider}': this policy verifies no tokens`
          : `'${provider}' verifies no tokens here: ${names.join(', ')} ${names.length === 1 ? 'does' : 'do'}`;
      found.push({ path: [...path, 'jwt', 'provider'], message });
    }
    if (clientIds.length > 0 && apiKeyAuth === undefined && basicAuth === undefined) {
      const message = "clients are identified by 'apiKeyAuth' or 'basicAuth', and this policy has neither";
      found.push({ path: [...path, 'clientIDs'], message });
    }
    return found;
  });
}
