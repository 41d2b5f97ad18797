// CRLs that a gateway cannot use, found where they are read: until they are replaced, the clients of their CAs are
// refused.

import { formatTime } from '../../cert-agent/base/clock.ts';
import { type Problem, reasonOf } from '../../cert-agent/base/errors.ts';
import { parseCrls } from '../../cert-agent/identity/crl.ts';
import type { CrlSettings } from '../../cert-agent/identity/crl-check.ts';
import type { ClientPolicy, GatewayDocuments } from '../routing/documents.ts';

/** Warnings about the CRLs of gateway.yaml (`file`), at `now`, milliseconds since 1970. */
export function ownCrlWarnings({ sources }: CrlSettings, path: string, file: string, now: number): Problem[] {
  const at = { file, line: 1, column: 1 };
  if (sources.length === 0)
    return [{ ...at, message: `clientCrls: ${path} contains no CRL (*.pem, *.crl, *.der): all clients are refused` }];
  return sources.flatMap(({ source, text }) =>
    problemsOf(text, source, now).map((message) => ({ ...at, file: source, message })),
  );
}

/** The same for the CRLs that ClientTrafficPolicies refer to, as far as they are there. */
export function policyCrlWarnings(
  policies: readonly ClientPolicy[],
  { configMaps, secrets }: Pick<GatewayDocuments, 'configMaps' | 'secrets'>,
  now: number,
): Problem[] {
  const named = policies.flatMap(({ namespace, crl }) =>
    (crl?.refs ?? []).map((ref) => `${ref.kind} ${ref.namespace ?? namespace}/${ref.name}`),
  );
  return [...configMaps, ...secrets].flatMap(({ kind, namespace, name, file, line, spec }) => {
    const what = `${kind} ${namespace}/${name}`;
    const text = spec.data['ca.crl'];
    if (text === undefined || !named.includes(what)) return [];
    return problemsOf(text, `ca.crl of ${what}`, now).map((message) => ({ file, line, column: 1, message }));
  });
}

function problemsOf(text: string, source: string, now: number): string[] {
  try {
    return parseCrls(Buffer.from(text, 'latin1'), source)
      .filter(({ nextUpdate }) => nextUpdate < now)
      .map(
        ({ nextUpdate }) =>
          `${source}: the CRL was to be replaced by ${formatTime(nextUpdate)}: the clients of its CA are refused`,
      );
  } catch (error) {
    return [`${reasonOf(error)}: the clients of its CA are refused`];
  }
}
