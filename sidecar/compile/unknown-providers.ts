// CUSTOM policies whose provider is not configured. Each refuses every request that it matches.

import type { Settings } from '../config/settings.ts';
import { type AuthorizationPolicy, isAttached } from '../policy/policy.ts';

/** Those of this workload that are enforced. */
export function ofUnknownProviders(
  policies: readonly AuthorizationPolicy[],
  settings: Settings,
): readonly AuthorizationPolicy[] {
  const known = new Set(settings.extensionProviders.map(({ name }) => name));
  return policies.filter(
    (policy) =>
      policy.provider !== undefined && !policy.dryRun && !known.has(policy.provider) && isAttached(policy, settings),
  );
}
