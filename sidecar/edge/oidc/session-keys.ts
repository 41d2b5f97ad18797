// The keys of session cookies. The first encrypts, all decrypt.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Site } from '../capability.ts';
import { secretText } from '../credentials.ts';
import type { OidcPlan } from './schema.ts';
import { minSecretBytes } from './session-cookie.ts';

/**
 * Keys from the policy's own Secret, else from gateway.yaml, else from the client secret, which all replicas have.
 * @throws SallyportError `config_invalid` for a key that is too short, and for a file that is empty.
 */
export function sessionKeysOf({ sessionKeys }: OidcPlan, at: Site<unknown>, clientSecret: string): readonly Buffer[] {
  const own = sessionKeys === undefined ? undefined : secretText(at, sessionKeys.name, 'session-keys', 'oidc');
  const text = own ?? at.files('sessionKeys')?.['sessionKeys'];
  if (text === undefined) return [Buffer.from(clientSecret, 'utf8')];
  const keys = text
    .split(/\s+/)
    .filter(Boolean)
    .map((one) => Buffer.from(one, 'utf8'));
  // An operator who names a file wants its keys: do not fall back to the client secret.
  if (keys.length === 0)
    throw new SallyportError(
      'config_invalid',
      `${at.name}: the file of 'sessionKeys' in gateway.yaml is missing or empty`,
      { hint },
    );
  const short = keys.find(({ length }) => length < minSecretBytes);
  if (short !== undefined)
    throw new SallyportError(
      'config_invalid',
      `${at.name}: a session key has ${short.length} bytes, but it needs at least ${minSecretBytes}`,
      { hint },
    );
  return keys;
}

const hint = 'make one with: openssl rand -base64 48';
