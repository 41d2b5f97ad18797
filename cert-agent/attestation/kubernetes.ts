// A service-account token that the kubelet projects into a pod, for our audience. The cluster's keys verify it
// (cluster.ts); the identity is /ns/<namespace>/sa/<account>, and nothing else of the token is in it.

import { SallyportError } from '../base/errors.ts';
import { isMissing, readText } from '../identity/read.ts';
import { parseSpiffeId } from '../identity/spiffe-id.ts';
import type { EnrolmentKind, GatheredKind, KubernetesEvidence, Verifiers } from './contract.ts';

/** One of a projected volume has about 1 KB. A larger file is some other file. */
export const maxTokenLength = 8192;

export const serviceAccountToken: GatheredKind & EnrolmentKind = {
  gather({ kubernetesTokenFile: file }) {
    if (file === undefined) return undefined;
    const token = readProjected(file);
    return token === undefined ? undefined : { kind: 'kubernetes', token, file };
  },
  field: 'kubernetesToken',
  maxLength: maxTokenLength,
  verify: verifyServiceAccount,
};

/**
 * The token in `file`, which the kubelet replaces before it expires; undefined while it is missing. Its mode is not
 * checked: the kubelet sets it, 0644 where containers of the pod run as different users.
 * @throws SallyportError `config_unreadable`.
 */
export function readProjected(file: string): string | undefined {
  let text: string;
  try {
    text = readText(file).trim();
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
  if (text === '') return undefined;
  if (text.length <= maxTokenLength && /^[\w-]+\.[\w-]+\.[\w-]+$/.test(text)) return text;
  throw new SallyportError('config_unreadable', `${file} contains no service-account token`, {
    hint: 'mount a projected volume with serviceAccountToken, and the audience that the CA expects',
  });
}

async function verifyServiceAccount(
  token: string,
  { cluster, trustDomain }: Pick<Verifiers, 'cluster' | 'trustDomain'>,
): Promise<KubernetesEvidence> {
  if (cluster === undefined)
    throw new SallyportError('kubernetes_token_invalid', 'this CA knows no cluster', {
      hint: 'start it with --kubernetes, or use a join token',
    });
  const found = await cluster.verify(token);
  const { namespace, serviceAccount, pod, podUid } = found;
  const id = parseSpiffeId(`spiffe://${trustDomain}/ns/${namespace}/sa/${serviceAccount}`);
  return { kind: 'kubernetes', id, pod: `${pod} ${podUid}`, names: cluster.namesOf(found) };
}
