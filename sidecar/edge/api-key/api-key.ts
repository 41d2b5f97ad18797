// API keys: a client is known by a secret that it sends. The keys are held as SHA-256 hashes, and looked up by the hash of
// what was sent, so that no comparison tells by its time how much of a guess was right; keys are long and random, so a hash
// that cannot be guessed needs no salt.

import { createHash } from 'node:crypto';
import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { isSafeField } from '../../exchange/message.ts';
import { isSamePlace, takeOutAll } from '../../exchange/token-places.ts';
import { type Found, findCredentials, refuseCaller, tellApp } from '../credentials.ts';
import type { ApiKeyPlan } from './schema.ts';

/** Longer ones are unknown without being hashed. */
const maxKeyLength = 1024;
/** A shorter key can be guessed, and its hash can be turned back into it. */
const minKeyLength = 16;

/** A key as it is written into a Secret: `sha256:` and 64 hexadecimal digits. */
export function hashApiKey(key: string): string {
  return `sha256:${digestOf(key)}`;
}

function digestOf(key: string): string {
  return createHash('sha256').update(key, 'utf8').digest('hex');
}

/** Clients by the hash of their key, and what is worth a word about them. */
export interface ApiKeys {
  readonly clients: ReadonlyMap<string, string>;
  readonly warnings: readonly string[];
}

/** One Secret after the other, by name: client to key, or to the key's hash. @throws SallyportError `config_invalid`. */
export function readApiKeys(secrets: readonly (readonly [string, Readonly<Record<string, string>>])[]): ApiKeys {
  const clients = new Map<string, string>();
  const known = new Set<string>();
  const warnings: string[] = [];
  for (const [secret, data] of secrets) {
    for (const [client, text] of Object.entries(data)) {
      // A key in a file ends with its line.
      const value = text.replace(/\r?\n$/, '');
      if (known.has(client)) {
        warnings.push(
          `the client '${client}' is in more than one Secret: of Secret '${secret}' nothing is taken for it`,
        );
        continue;
      }
      known.add(client);
      if (!isSafeField('x-client', client) || client === '')
        throw new SallyportError('config_invalid', `Secret '${secret}' names a client that no header can hold`);
      const hash = readHash(value, client, secret);
      if (!value.startsWith('sha256:'))
        warnings.push(
          `the key of client '${client}' stands readable in Secret '${secret}': write its hash, sha256:...`,
        );
      const other = clients.get(hash);
      if (other !== undefined)
        throw new SallyportError('config_invalid', `the clients '${other}' and '${client}' have the same API key`);
      clients.set(hash, client);
    }
  }
  if (clients.size === 0)
    throw new SallyportError(
      'config_invalid',
      `there is no API key in ${secrets.map(([name]) => `Secret '${name}'`).join(', ')}`,
    );
  return { clients, warnings };
}

function readHash(value: string, client: string, secret: string): string {
  if (value.startsWith('sha256:')) {
    const hash = value.slice('sha256:'.length).toLowerCase();
    if (/^[0-9a-f]{64}$/.test(hash)) return hash;
    throw new SallyportError(
      'config_invalid',
      `the hash of client '${client}' in Secret '${secret}' is not 64 hexadecimal digits`,
    );
  }
  if (value.length < minKeyLength || value.length > maxKeyLength)
    throw new SallyportError(
      'config_invalid',
      `the key of client '${client}' in Secret '${secret}' has ${value.length} characters: ${minKeyLength} to ${maxKeyLength} are taken`,
    );
  return digestOf(value);
}

/** As Envoy has it: in `Authorization` a key may stand bare, or as a bearer token. */
function keyIn({ value, place }: Found): string {
  return place.kind === 'header' && place.name === 'authorization' ? value.replace(/^Bearer +/i, '') : value;
}

/** Knows the client by its key. @throws SallyportError `api_key_missing`, `api_key_unknown`. */
export function compileApiKeys(policy: ApiKeyPlan, { clients }: ApiKeys): (exchange: Exchange) => void {
  return function knowClient(exchange) {
    const found = findCredentials(exchange, policy.extractFrom);
    const [first] = found;
    if (first === undefined)
      throw refuseCaller(exchange, 'api_key_missing', 'Client authentication failed.', 'it brings no API key');
    const key = keyIn(first);
    // Twice at one place it is two, even if they are equal: an app might join them. The same at two places is one.
    const isOne = found.every(
      (one, at) => keyIn(one) === key && found.findIndex(({ place }) => isSamePlace(place, one.place)) === at,
    );
    const client = !isOne || key.length > maxKeyLength ? undefined : clients.get(digestOf(key));
    // A key in the query, good or bad, is not for the record.
    if (policy.sanitize || client === undefined)
      takeOutAll(
        exchange,
        found.map(({ place }) => place),
      );
    if (!isOne)
      throw refuseCaller(exchange, 'api_key_unknown', 'Client authentication failed.', 'it brings two API keys');
    if (client === undefined)
      throw refuseCaller(exchange, 'api_key_unknown', 'Client authentication failed.', 'its API key is unknown');
    exchange.clientId = client;
    exchange.authMethod = 'apiKey';
    if (policy.forwardClientIdHeader !== undefined) tellApp(exchange, policy.forwardClientIdHeader, client);
  };
}
