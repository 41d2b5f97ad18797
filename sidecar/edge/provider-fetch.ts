// Questions to a provider of identities: over https, or http on this machine; no redirects, which could lead anywhere; no
// more than so many bytes, in so much time. The protocol's own checks are oauth4webapi's, which is loaded when first needed.

import type * as OAuth from 'oauth4webapi';
import { isLoopback } from '../../cert-agent/base/address.ts';
import { reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';

const timeoutMs = 5000;
const maxBytes = 262_144;

/** What oauth4webapi sends its requests with. */
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

/** @throws SallyportError `oidc_provider_failed` where a provider names a place that credentials must not go to. */
export function checkEndpoint(url: unknown, what: string): string {
  const parsed = typeof url === 'string' ? URL.parse(url) : null;
  const safe =
    parsed?.protocol === 'https:' ||
    (parsed?.protocol === 'http:' && isLoopback(parsed.hostname.replace(/^\[|\]$/g, '')));
  if (parsed === null || !safe)
    throw new SallyportError('oidc_provider_failed', `the provider names no ${what} that begins with https://`);
  return parsed.href;
}

/** One question. @throws SallyportError `oidc_provider_unavailable` when there is no whole answer in time. */
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
        // Destroying it is an error to it, which nobody else would hear.
        answer.body.on('error', () => {}).destroy();
        throw new Error(`it answers ${answer.statusCode}`);
      }
      const parts: Buffer[] = [];
      let size = 0;
      for await (const part of answer.body) {
        size += (part as Buffer).length;
        if (size > maxBytes) throw new Error(`the answer is larger than ${maxBytes} bytes`);
        parts.push(part as Buffer);
      }
      const fields = new Headers();
      for (const name of ['content-type', 'www-authenticate']) {
        const value = answer.headers[name];
        if (typeof value === 'string') fields.set(name, value);
      }
      // 204 and its like have no body in the Fetch standard, and say nothing to us.
      const bodiless = [101, 204, 205, 304].includes(answer.statusCode);
      return new Response(bodiless ? null : Buffer.concat(parts), { status: answer.statusCode, headers: fields });
    } catch (error) {
      throw new SallyportError('oidc_provider_unavailable', `${where.origin}${where.pathname}: ${reasonOf(error)}`);
    }
  };
}

/**
 * What a question to a provider came to. The library's errors carry what was answered, tokens and all: of them only the
 * sentence goes on.
 */
export function providerError(error: unknown, what: string): SallyportError {
  if (error instanceof SallyportError) return error;
  const said = error as { readonly error?: unknown };
  const code = typeof said.error === 'string' && /^[\x21-\x7e]{1,60}$/.test(said.error) ? ` (${said.error})` : '';
  return new SallyportError('oidc_provider_failed', `${what}: ${reasonOf(error)}${code}`);
}
