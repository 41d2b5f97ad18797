// Requests to an identity provider: over https, or http on this machine; without redirects, which could lead anywhere;
// with limits of size and time. The protocol's own checks are oauth4webapi's, which is loaded at first use.

import type * as OAuth from 'oauth4webapi';
import { isLoopback } from '../../cert-agent/base/address.ts';
import { reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';

const timeoutMs = 5000;
const maxBytes = 262_144;

/** The function by which oauth4webapi sends its requests. */
export type ProviderFetch = (
  url: string,
  options: {
    readonly method?: string;
    readonly headers?: unknown;
    readonly body?: unknown;
  },
) => Promise<Response>;

export type { OAuth };

/** The library, once. */
export function loadOAuth(): Promise<typeof OAuth> {
  return import('oauth4webapi');
}

/** @throws SallyportError `oidc_provider_failed` if a provider names a URL that credentials must not be sent to. */
export function checkEndpoint(url: unknown, what: string): string {
  const parsed = typeof url === 'string' ? URL.parse(url) : null;
  const safe =
    parsed?.protocol === 'https:' ||
    (parsed?.protocol === 'http:' && isLoopback(parsed.hostname.replace(/^\[|\]$/g, '')));
  if (parsed === null || !safe)
    throw new SallyportError('oidc_provider_failed', `the provider names no ${what} with https://`);
  return parsed.href;
}

/** One request. @throws SallyportError `oidc_provider_unavailable` without a complete response in time. */
export function createProviderFetch(limitMs: number = timeoutMs): ProviderFetch {
  return async function askProvider(url, { method = 'GET', headers, body }) {
    const { request } = await import('undici');
    const where = new URL(url);
    try {
      const answer = await request(where, {
        method: method as 'GET' | 'POST',
        headers: Object.fromEntries(new Headers(headers as ConstructorParameters<typeof Headers>[0])),
        body: body === undefined || body === null ? null : String(body),
        signal: AbortSignal.timeout(limitMs),
      });
      if (answer.statusCode >= 500) {
        // Destroying it emits an error that has no other listener.
        answer.body.on('error', () => {}).destroy();
        throw new Error(`it responded with status ${answer.statusCode}`);
      }
      const parts: Buffer[] = [];
      let size = 0;
      for await (const part of answer.body) {
        size += (part as Buffer).length;
        if (size > maxBytes) throw new Error(`the response is larger than ${maxBytes} bytes`);
        parts.push(part as Buffer);
      }
      const fields = new Headers();
      for (const name of ['content-type', 'www-authenticate']) {
        const value = answer.headers[name];
        if (typeof value === 'string') fields.set(name, value);
      }
      // 204 and similar statuses have no body in the Fetch standard; we need none.
      const bodiless = [101, 204, 205, 304].includes(answer.statusCode);
      return new Response(bodiless ? null : Buffer.concat(parts), { status: answer.statusCode, headers: fields });
    } catch (error) {
      throw new SallyportError('oidc_provider_unavailable', `${where.origin}${where.pathname}: ${reasonOf(error)}`);
    }
  };
}

/**
 * The result of a request to a provider. The library's errors contain the response with its tokens: only the sentence
 * is kept.
 */
export function providerError(error: unknown, what: string): SallyportError {
  if (error instanceof SallyportError) return error;
  const said = error as { readonly error?: unknown };
  const code = typeof said.error === 'string' && /^[\x21-\x7e]{1,60}$/.test(said.error) ? ` (${said.error})` : '';
  return new SallyportError('oidc_provider_failed', `${what}: ${reasonOf(error)}${code}`);
}
