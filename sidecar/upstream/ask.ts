// One request to an upstream and its whole response, on the connections that requests use: mutual TLS to a peer, plain
// to loopback. For requests of our own on behalf of another, such as one to an external authorizer.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import { emptyFields, type Fields, type Reply } from '../exchange/message.ts';
import type { Destination, UpstreamConnection, UpstreamEvents } from '../exchange/upstream.ts';
import { owned } from '../protocol/lent-reads.ts';

/** A request of our own. `path` has its query; `authority` is the Host. */
export interface Question {
  readonly method: string;
  readonly path: string;
  readonly authority: string;
  readonly fields: Fields;
  readonly body: Buffer | undefined;
  /** Only the response's head is awaited; the caller closes the connection. */
  readonly headOnly?: boolean;
}

/** The whole response. With `headOnly` the body is empty. */
export interface Answer {
  readonly status: number;
  readonly fields: Fields;
  readonly trailers: Fields;
  readonly body: Buffer;
}

/** A response is a verdict and a short text. */
const maxAnswerBytes = 65_536;
const emptyBody = Buffer.alloc(0);

/**
 * Asks and waits.
 * @throws SallyportError `upstream_*` if there is no response, none in time, or one that is too large.
 */
export async function ask(destination: Destination, question: Question, timeoutMs: number): Promise<Answer> {
  let acquired: UpstreamConnection | undefined;
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new SallyportError('upstream_connect_timeout', `no response within ${timeoutMs} ms`)),
      timeoutMs,
    );
    // The connection keeps the process alive; a request that was abandoned does not.
    timer.unref();
  });
  late.catch(() => {});
  const connected = Promise.resolve(destination.acquire(false, false));
  try {
    acquired = await Promise.race([connected, late]);
    return await Promise.race([answerOf(acquired, question), late]);
  } catch (error) {
    if (acquired === undefined) connected.then((one) => one.destroy()).catch(() => {});
    // The rest of the response is not needed.
    else acquired.destroy();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

function answerOf(upstream: UpstreamConnection, question: Question): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const parts: Buffer[] = [];
    let size = 0;
    let head: Reply | undefined;
    const events: UpstreamEvents = {
      upstreamInformational() {},
      upstreamReply(reply, whole) {
        head = reply;
        if (question.headOnly === true) settle(reply, emptyFields, emptyBody);
        else if (whole !== undefined) settle(reply, emptyFields, owned(whole));
      },
      upstreamData(chunk) {
        size += chunk.length;
        if (size > maxAnswerBytes)
          reject(new SallyportError('upstream_protocol', `the response is larger than ${maxAnswerBytes} bytes`));
        else parts.push(chunk);
        return true;
      },
      upstreamEnd(trailers) {
        settle(head!, trailers, Buffer.concat(parts));
      },
      upstreamDrained() {},
      upstreamFailed: reject,
    };
    const settle = (reply: Reply, trailers: Fields, body: Buffer): void =>
      resolve({ status: reply.status, fields: reply.fields, trailers, body });
    const { method, path, authority, fields, body } = question;
    upstream.send(
      {
        ...{ method, path, authority, fields },
        hopFields: undefined,
        clientCert: undefined,
        requestId: undefined,
        framing: body?.length ?? 0,
        webSocket: false,
        expectContinue: false,
      },
      body,
      events,
    );
  });
}
