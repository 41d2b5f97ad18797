// Finds logins that cannot complete, which no single document shows and which every user would meet. The provider
// redirects browsers to `redirectURL`. A rule under the same policy must serve it, and the login's cookie, which only
// its own host receives, must be sent there.

import type { InForce, Review, RulesFor } from '../capability.ts';
import type { OidcPlan } from './schema.ts';

/** Why logins cannot complete; undefined if they can. */
export function whyLost(
  { redirectUrl, cookieDomain }: OidcPlan,
  { hosts }: InForce,
  rulesFor: RulesFor,
): Review | undefined {
  const url = new URL(redirectUrl);
  const { host, hostname, pathname } = url;
  const type = 'LoginsComplete';
  const found = rulesFor(url);
  if (!found.some(({ underPolicy }) => underPolicy)) {
    const other = found[0] === undefined ? '' : `: ${found[0].name} serves it, without this policy`;
    return {
      ...{ type, reason: 'CallbackNotServed' },
      message: `no rule under this policy serves its 'redirectURL' ${host}${pathname}${other}`,
    };
  }
  // A wildcard may stand for the right host only. That is unknown here, and `doubtsOf` warns of it.
  const lost = hosts.filter((one) => !one.includes('*') && one !== hostname && !isWithin(one, cookieDomain));
  if (lost.length === 0) return undefined;
  return {
    ...{ type, reason: 'HostNotServed' },
    message: `a login that begins on ${lost.join(', ')} returns to ${hostname}, which does not get its cookie: attach a policy with its own redirectURL, or set 'cookieDomain' if they share a domain`,
  };
}

/** Warnings for wildcards: one may stand for a single host, or for many hosts whose users could not log in. */
export function doubtsOf({ redirectUrl, cookieDomain }: OidcPlan, { policy, hosts }: InForce): string[] {
  const { hostname } = new URL(redirectUrl);
  return hosts
    .filter((one) => one.startsWith('*.') && !isWithin(one.slice(2), cookieDomain))
    .map(
      (one) =>
        `SecurityPolicy ${policy}: a login that begins on a host of ${one} other than ${hostname} cannot complete, as ${hostname} does not get its cookie: set 'cookieDomain', or name ${hostname} in the route`,
    );
}

function isWithin(host: string, domain: string | undefined): boolean {
  return domain !== undefined && `.${host}`.endsWith(`.${domain}`);
}
