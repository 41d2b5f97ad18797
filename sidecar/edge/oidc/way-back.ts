// Logins that cannot come back: no document shows it, and each user meets it. The provider sends browsers to `redirectURL`, where a
// rule under the same policy has to take them, and where the cookie of the login has to be, which only its own host gets.

import type { InForce, Review, RulesFor } from '../capability.ts';
import type { OidcPlan } from './schema.ts';

/** Why logins do not come back. */
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
    const other = found[0] === undefined ? '' : `: ${found[0].name} has it, without this policy`;
    return {
      ...{ type, reason: 'CallbackNotServed' },
      message: `no rule under this policy serves ${host}${pathname}, where its 'redirectURL' leads back to${other}`,
    };
  }
  // A star may stand for the right host alone: that is not known, and `doubtsOf` says it.
  const lost = hosts.filter((one) => !one.includes('*') && one !== hostname && !isWithin(one, cookieDomain));
  if (lost.length === 0) return undefined;
  return {
    ...{ type, reason: 'HostNotServed' },
    message: `a login that begins on ${lost.join(', ')} comes back to ${hostname}, where its cookie is not: attach a policy with a redirectURL of its own, or set 'cookieDomain' where they share a domain`,
  };
}

/** Under a star one host may be meant alone, or many, whose users could not log in. */
export function doubtsOf({ redirectUrl, cookieDomain }: OidcPlan, { policy, hosts }: InForce): string[] {
  const { hostname } = new URL(redirectUrl);
  return hosts
    .filter((one) => one.startsWith('*.') && !isWithin(one.slice(2), cookieDomain))
    .map(
      (one) =>
        `SecurityPolicy ${policy}: a login that begins on another host of ${one} than ${hostname} does not come back to where its cookie is: set 'cookieDomain', or name ${hostname} in the route`,
    );
}

function isWithin(host: string, domain: string | undefined): boolean {
  return domain !== undefined && `.${host}`.endsWith(`.${domain}`);
}
