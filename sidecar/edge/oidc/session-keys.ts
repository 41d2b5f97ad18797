// The keys of session cookies. The first encrypts, all decrypt.

import type { Site } from '../capability.ts';
import { secretText } from '../credentials.ts';
import { keysIn } from '../seal.ts';
import type { OidcPlan } from './schema.ts';

/**
 * Keys from the policy's own Secret, else from gateway.yaml, else from the client secret, which all replicas have.
 * @throws SallyportError `config_invalid` for a key that is too short, and for a file that is empty.
 */
export function sessionKeysOf({ sessionKeys }: OidcPlan, at: Site<unknown>, clientSecret: string): readonly Buffer[] {
  const own = sessionKeys === undefined ? undefined : secretText(at, sessionKeys.name, 'session-keys', 'oidc');
  const text = own ?? at.files('sessionKeys')?.['sessionKeys'];
  if (text === undefined) return [Buffer.from(clientSecret, 'utf8')];
  return keysIn(text, at.name);
}
