// A session as bytes, before it is sealed. Providers put hundreds of groups into ID tokens, so the claims of both
// tokens are decoded from base64 and compressed together. Nothing else is compressed, because the compressed length
// reveals what a secret has in common with the text beside it: opaque access tokens, refresh tokens and signatures stay
// outside. Claims come from the provider, and only at a login or a refresh, so no request can place guesses beside
// them.

import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { SallyportError } from '../../../cert-agent/base/errors.ts';

/** The part of a session that its cookie holds. */
export interface StoredSession {
  readonly id: string;
  readonly idToken: string;
  /** Only if the app is to get it. */
  readonly accessToken: string | undefined;
  readonly refreshToken: string | undefined;
  /** When the tokens expire, and until when the session can be refreshed: wall clock, milliseconds. */
  readonly tokensUntil: number;
  readonly until: number;
}

/** A JWT without its claims, which follow compressed at the end; a token that is not a JWT is a text. */
type Packed = string | readonly [header: string, signature: string];
type Head = readonly [
  id: string,
  tokensUntil: number,
  until: number,
  idToken: Packed,
  accessToken: Packed | null,
  refreshToken: string | null,
];

/** Larger claims are refused when a session begins, and nothing that inflates to more is read (bytes). */
const maxClaims = 256 * 1024;

/** @throws SallyportError `oidc_provider_failed` for more than 256 KB of claims. */
export function packSession(session: StoredSession): Buffer {
  const claims: string[] = [];
  const pack = (token: string): Packed => {
    const split = splitJwt(token);
    if (split === undefined) return token;
    claims.push(split.claims);
    return [split.header, split.signature];
  };
  const { id, tokensUntil, until, idToken, accessToken, refreshToken } = session;
  const head: Head = [
    ...([id, tokensUntil, until, pack(idToken)] as const),
    ...([accessToken === undefined ? null : pack(accessToken), refreshToken ?? null] as const),
  ];
  const text = Buffer.from(JSON.stringify(head));
  const all = Buffer.from(JSON.stringify(claims));
  if (all.length > maxClaims)
    throw new SallyportError(
      'oidc_provider_failed',
      `the claims of a session take ${all.length} bytes: at most ${maxClaims} are allowed`,
      { hint: 'make the provider send fewer claims' },
    );
  const length = Buffer.alloc(4);
  length.writeUInt32BE(text.length);
  return Buffer.concat([length, text, deflateRawSync(all)]);
}

/** Reads the output of `packSession`, which has been authenticated. Undefined if it has another form. */
export function unpackSession(bytes: Buffer): StoredSession | undefined {
  try {
    const end = 4 + bytes.readUInt32BE(0);
    const [id, tokensUntil, until, idToken, accessToken, refreshToken] = JSON.parse(
      bytes.subarray(4, end).toString('utf8'),
    ) as Head;
    const claims = JSON.parse(
      inflateRawSync(bytes.subarray(end), { maxOutputLength: maxClaims }).toString('utf8'),
    ) as string[];
    const unpack = (token: Packed): string =>
      typeof token === 'string'
        ? token
        : `${token[0]}.${Buffer.from(claims.shift()!, 'utf8').toString('base64url')}.${token[1]}`;
    return {
      ...{ id, tokensUntil, until, idToken: unpack(idToken) },
      accessToken: accessToken === null ? undefined : unpack(accessToken),
      refreshToken: refreshToken ?? undefined,
    };
  } catch {
    // Sealed by another version of this program.
    return undefined;
  }
}

/** The parts of a JWT; undefined unless joining them gives the same token. */
function splitJwt(token: string): { header: string; claims: string; signature: string } | undefined {
  const [header, payload, signature, more] = token.split('.');
  if (header === undefined || payload === undefined || signature === undefined || more !== undefined) return undefined;
  const claims = Buffer.from(payload, 'base64url').toString('utf8');
  const isSame = Buffer.from(claims, 'utf8').toString('base64url') === payload;
  return isSame && claims.startsWith('{') ? { header, claims, signature } : undefined;
}
