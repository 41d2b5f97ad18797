// The response to a transcoded call. One message becomes one body, with the status of its trailers. A stream is sent on
// message by message, without delay.

import { asSallyportError, SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { headerOf } from '../../exchange/facts.ts';
import { addFields, filterFields } from '../../exchange/fields.ts';
import { emptyFields, type Fields, isSafeField, type Reply } from '../../exchange/message.ts';
import { PassingDownstream } from '../../exchange/passing.ts';
import { isGrpc } from '../../protocol/grpc.ts';
import type { Binding } from './bindings.ts';
import { MessageReader } from './message-reader.ts';
import { codeOfHttp, httpStatusOf, unescapeMessage } from './status.ts';
import type { Transcoder } from './transcoder.ts';

/** How the messages of a stream are written. */
export interface StreamForm {
  readonly type: string;
  readonly begin: string;
  readonly end: string;
  /** One message; `isFirst` of its stream. */
  write(json: string, isFirst: boolean): string;
  /** A status other than OK after the head has been sent; undefined: the response is cut. */
  fail(status: string): string | undefined;
}

/** As Envoy's, which are arrays unless an option says otherwise. */
export const streamForms = Object.freeze({
  array: {
    ...{ type: 'application/json', begin: '[', end: ']' },
    write: (json, isFirst) => (isFirst ? json : `,${json}`),
    // An array has no element that differs from a message.
    fail: () => undefined,
  },
  lines: {
    ...{ type: 'application/x-ndjson', begin: '', end: '' },
    write: (json) => `${json}\n`,
    fail: (status) => `{"error":${status}}\n`,
  },
  events: {
    ...{ type: 'text/event-stream', begin: '', end: '' },
    write: (json) => `data: ${json}\n\n`,
    fail: (status) => `event: error\ndata: ${status}\n\n`,
  },
} satisfies Record<string, StreamForm>);

/** The settings of a call's response. */
export interface Call {
  readonly binding: Binding;
  readonly transcoder: Transcoder;
  readonly form: StreamForm;
  /** Of one message. */
  readonly limitBytes: number;
  /** Ends it at the backend. */
  cancel(): void;
}

/** Wraps the client's codec. */
export class JsonReply extends PassingDownstream {
  readonly #exchange: Exchange;
  readonly #call: Call;
  /** Ends the exchange with an error. */
  readonly #fail: (error: SallyportError) => void;
  /** Restores the client's request for the codec: it was changed for the backend. */
  readonly #restore: () => void;
  readonly #reader: MessageReader;
  readonly #streams: boolean;
  #head: Reply | undefined = undefined;
  #message: Buffer | undefined = undefined;
  #sent = 0;
  /** The client has its response; further bytes of the backend are dropped. */
  #isOver = false;

  constructor(exchange: Exchange, call: Call, restore: () => void, fail: (error: SallyportError) => void) {
    super(exchange.downstream);
    this.#exchange = exchange;
    this.#call = call;
    this.#fail = fail;
    this.#restore = restore;
    this.#reader = new MessageReader(call.limitBytes);
    const { methodKind } = call.binding.rpc;
    this.#streams = methodKind === 'server_streaming' || methodKind === 'bidi_streaming';
  }

  /** A complete response is sent at once. A stream's head is passed on; any other waits for its message. */
  override respond(reply: Reply, whole: Buffer | undefined): void {
    this.#restore();
    this.#head = reply;
    if (reply.status !== 200 || !isGrpc(headerOf(this.#exchange, 'content-type', reply.fields) ?? ''))
      return this.#respondElse(reply, whole);
    const hasStatus = headerOf(this.#exchange, 'grpc-status', reply.fields) !== undefined;
    if (whole === undefined && reply.framing !== 0 && !hasStatus) {
      if (this.#streams) this.#begin();
      return;
    }
    if (whole !== undefined && whole.length > 0) {
      if (this.#streams) this.#begin();
      this.write(whole);
    }
    this.end(reply.fields);
  }

  /** Our own refusals pass unchanged; a response that is not gRPC still gets a status. */
  #respondElse(reply: Reply, whole: Buffer | undefined): void {
    if (this.#exchange.failure !== undefined) return this.inner.respond(reply, whole);
    if (reply.status < 400)
      return this.#giveUp(new SallyportError('upstream_answer_malformed', 'the backend did not respond in gRPC'));
    this.#sendStatus(reply.status, codeOfHttp(reply.status), 'the backend did not respond in gRPC', undefined);
  }

  /** Bytes of gRPC messages, cut anywhere. A malformed message, or a second one, fails the exchange. */
  override write(chunk: Buffer): boolean {
    if (this.#isOver) return true;
    try {
      let more = true;
      for (const message of this.#reader.read(chunk)) more = this.#take(message);
      return more;
    } catch (error) {
      this.#giveUp(error);
      return true;
    }
  }

  #take(message: Buffer): boolean {
    const { transcoder, binding, form } = this.#call;
    if (this.#streams) return this.#write(form.write(transcoder.decode(binding, message), this.#sent++ === 0));
    if (this.#message !== undefined)
      throw new SallyportError('upstream_answer_malformed', 'a second message where the method has one');
    // A copy: the slice would keep the whole read alive.
    this.#message = Buffer.from(message);
    return true;
  }

  /** The status of the trailers decides: the message, an error in JSON, or the end of the stream. */
  override end(trailers: Fields): void {
    if (this.#isOver) return;
    if (!this.#reader.isBetween)
      return this.#giveUp(new SallyportError('upstream_answer_malformed', 'the response ends within a message'));
    const read = (name: string): string | undefined => headerOf(this.#exchange, name, trailers);
    const said = read('grpc-status');
    const code = said !== undefined && /^\d{1,2}$/.test(said) ? Number(said) : 2;
    const message =
      said === undefined ? 'the response has no grpc-status' : unescapeMessage(read('grpc-message') ?? '');
    try {
      if (code !== 0) this.#endWith(code, message, read('grpc-status-details-bin'));
      else if (this.#streams) this.#endStream();
      else this.#endOne();
    } catch (error) {
      this.#giveUp(error);
    }
  }

  #endOne(): void {
    const { transcoder, binding } = this.#call;
    if (this.#message === undefined)
      throw new SallyportError('upstream_answer_malformed', 'no message where the method has one');
    if (binding.rpc.output.typeName === 'google.api.HttpBody') {
      const { type, data } = transcoder.rawBody(binding, this.#message);
      // It may come from an upload: a line break in it would begin another field, or the body.
      if (type !== '' && !isSafeField('content-type', type))
        throw new SallyportError(
          'upstream_answer_malformed',
          'the content_type of a google.api.HttpBody is not a valid header value',
        );
      return this.#send(200, type, data);
    }
    this.#send(200, 'application/json', Buffer.from(transcoder.decode(binding, this.#message)));
  }

  #endStream(): void {
    // Head and status in one: there was no message.
    if (!this.#exchange.responded) this.#begin();
    if (this.#isOver) return;
    if (this.#call.form.end !== '') this.#write(this.#call.form.end);
    this.#isOver = true;
    this.inner.end(emptyFields);
  }

  #endWith(code: number, message: string, details: string | undefined): void {
    if (!this.#exchange.responded) return this.#sendStatus(httpStatusOf(code), code, message, details);
    const last = this.#call.form.fail(JSON.stringify(this.#call.transcoder.status(code, message, details)));
    this.#isOver = true;
    if (last === undefined) {
      this.inner.abort();
      return;
    }
    this.#write(last);
    this.inner.end(emptyFields);
  }

  #begin(): void {
    const { form } = this.#call;
    const fields = this.#fieldsOf(form.type);
    this.#exchange.status = 200;
    const reply = { ...this.#head!, fields, declaredLength: undefined };
    // No body may follow a response to HEAD: the client would read it as the next response.
    if (this.#exchange.method === 'HEAD') {
      this.#isOver = true;
      this.#call.cancel();
      return this.inner.respond({ ...reply, framing: 0 }, empty);
    }
    this.inner.respond({ ...reply, framing: 'chunked' }, undefined);
    if (form.begin !== '') this.#write(form.begin);
  }

  #sendStatus(status: number, code: number, message: string, details: string | undefined): void {
    const json = JSON.stringify(this.#call.transcoder.status(code, message, details));
    this.#send(status, 'application/json', Buffer.from(json));
  }

  #send(status: number, type: string, body: Buffer): void {
    this.#isOver = true;
    this.#reader.drop();
    this.#exchange.status = status;
    const { length } = body;
    const reply = { ...this.#head!, status, reason: '', fields: this.#fieldsOf(type) };
    const isHead = this.#exchange.method === 'HEAD';
    this.inner.respond({ ...reply, framing: length, declaredLength: length }, isHead ? empty : body);
  }

  /** The backend's metadata, without the fields of gRPC. */
  #fieldsOf(type: string): Fields {
    const kept = filterFields(this.#head!.fields, ({ lower }) => !ofBody.has(lower) && !lower.startsWith('grpc-'));
    return type === '' ? kept : addFields(kept, [['content-type', type]]);
  }

  #write(text: string): boolean {
    return this.inner.write(Buffer.from(text));
  }

  #giveUp(error: unknown): void {
    this.#isOver = true;
    this.#reader.drop();
    this.#call.cancel();
    this.#fail(asSallyportError(error, 'internal', 'the response could not be transcoded'));
  }

  /** Releases the bytes of a response that did not end. */
  drop(): void {
    this.#reader.drop();
  }

  /** Cuts the client's response. */
  override abort(): void {
    this.#isOver = true;
    this.#reader.drop();
    this.inner.abort();
  }
}

const empty = Buffer.alloc(0);

/** They describe the backend's body, which the client does not get. */
const ofBody: ReadonlySet<string> = new Set([
  ...['content-type', 'content-encoding', 'content-range', 'content-md5', 'content-digest', 'repr-digest', 'digest'],
  ...['accept-ranges', 'trailer'],
]);
