// Requests to a Kubernetes API server: by whom it is known, and our token. Small, bounded answers only; no redirects.

import { readFileSync } from 'node:fs';
import { reasonOf, SallyportError } from './errors.ts';
import { readRoots } from './roots.ts';

export interface ApiServer {
  /** `https://host:port`. */
  readonly url: string;
  /** Its roots, PEM; default the system's. */
  readonly caFile?: string;
  /** Our token for it, read for each request: the kubelet replaces it. */
  readonly tokenFile?: string;
  /** For a whole response, default 5 s. */
  readonly timeoutMs?: number;
}

const maxAnswerBytes = 262_144;

/** Its keys are a JWK Set (RFC 7517 section 8.5.2): it answers 406 to a request that accepts only plain JSON. */
const accept = 'application/json, application/jwk-set+json';

/**
 * Asks once, on a connection of its own. `type` is that of the body; a patch has its own.
 * @throws SallyportError `kubernetes_unavailable` for every answer that is no success, and no JSON.
 */
export async function askApiServer(
  { url, caFile, tokenFile, timeoutMs = 5000 }: ApiServer,
  method: 'GET' | 'POST' | 'PATCH',
  path: string,
  body?: unknown,
  type = 'application/json',
): Promise<unknown> {
  const { Client } = await import('undici');
  let client: InstanceType<typeof Client> | undefined;
  try {
    const ca = caFile === undefined ? undefined : readRoots(caFile);
    const token = tokenFile === undefined ? undefined : readFileSync(tokenFile, 'utf8').trim();
    client = new Client(url, {
      connect: { timeout: timeoutMs, ...(ca === undefined ? {} : { ca }) },
      maxResponseSize: maxAnswerBytes,
    });
    const { statusCode, body: answer } = await client.request({
      ...{ method, path },
      headers: {
        accept,
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        ...(body === undefined ? {} : { 'content-type': type }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(timeoutMs),
    });
    const text = await answer.text();
    if (statusCode < 200 || statusCode > 299) throw new Error(`${path} answered ${statusCode}`);
    return parse(text, path);
  } catch (error) {
    throw unavailable(reasonOf(error), error);
  } finally {
    void client?.destroy();
  }
}

export function unavailable(why: string, cause?: unknown): SallyportError {
  return new SallyportError('kubernetes_unavailable', `the cluster cannot be asked: ${why}`, { cause });
}

function parse(text: string, path: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error(`${path} answered no JSON`);
  }
}
