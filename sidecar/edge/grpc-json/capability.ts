// gRPC-JSON transcoding: requests in JSON over HTTP become calls of a gRPC backend, by the rules of its descriptor set.

import { SallyportError as Refusal, type SallyportError } from '../../../cert-agent/base/errors.ts';
import { deny } from '../../exchange/decision.ts';
import type { Carrier } from '../../exchange/ends.ts';
import { type Exchange, Slot } from '../../exchange/exchange.ts';
import { headerOf, pathWithoutQuery } from '../../exchange/facts.ts';
import { addFields, changeRequest, filterFields } from '../../exchange/fields.ts';
import { emptyFields } from '../../exchange/message.ts';
import { noteInLog } from '../../exchange/noted.ts';
import type { Onward } from '../../exchange/onward.ts';
import { translatedPath } from '../../exchange/translated.ts';
import { limitBody } from '../../protocol/body-limit.ts';
import type { Service } from '../capability.ts';
import { gatherBody, waitsForBody, wholeBodyOf } from '../gather-body.ts';
import { JsonReply, type StreamForm, streamForms } from './reply.ts';
import type { GrpcJsonPlan } from './schema.ts';
import type { Match, Transcoder } from './transcoder.ts';

/** The parts of the process that it uses. */
type Shared = Pick<Onward, 'refuse'>;

/** One request in progress. */
interface Transcoded {
  readonly match: Match;
  readonly method: string;
  readonly path: string;
  reply?: JsonReply;
}

const calls = new Slot<Transcoded>();

export const grpcJson: Service<GrpcJsonPlan, Shared> = {
  name: 'grpc-json',
  guards: false,
  callsGrpc: true,
  perPolicy: true,
  fields: [
    {
      ...{ kind: 'sallyport.dev/GRPCJSONTranscoding', name: 'GRPCJSONTranscoding' },
      schema: async () => (await import('./schema.ts')).grpcJsonSchema,
    },
  ],
  share: ({ onward }) => onward,
  shareDry: () => ({ refuse() {} }),
  compile([planned], { name, shared }) {
    if (planned === undefined) return undefined;
    const { plan } = planned;
    const form = formOf(plan);
    let transcoder: Transcoder | undefined;
    // Gateways without such a document never load the library.
    const loading = import('./transcoder.ts').then((loaded) => {
      transcoder = new loaded.Transcoder(plan);
    });
    loading.catch(() => {});

    const admit = (exchange: Exchange): void => {
      const { method, path, grpc, webSocket } = exchange;
      if (grpc || webSocket || method === 'CONNECT') return;
      const match = transcoder!.find(method, pathWithoutQuery(path));
      if (match === undefined || !('binding' in match)) return;
      calls.set(exchange, { match, method, path });
      translatedPath.set(exchange, match.binding.rpcPath);
      limitBody(exchange, plan.maxRequestBodySize, name);
    };

    const encode = (exchange: Exchange, call: Transcoded): void => {
      const body = wholeBodyOf(exchange) ?? empty;
      const query = call.path.slice(pathWithoutQuery(call.path).length + 1);
      try {
        checkType(exchange, body);
        exchange.wholeBody = transcoder!.encode(call.match, query, body);
        // It has a body now: no cache stores the response under the URL, or uses the URL to fetch it.
        exchange.framing = exchange.wholeBody.length;
      } catch (error) {
        throw refusal(exchange, error);
      }
      const restore = (): void => void Object.assign(exchange, { method: call.method, path: call.path });
      const { maxResponseBodySize: limitBytes } = plan;
      const cancel = (): void => exchange.carrier?.downstreamGone();
      const sent = { binding: call.match.binding, transcoder: transcoder!, form, limitBytes, cancel };
      call.reply = new JsonReply(exchange, sent, restore, (error) => shared.refuse(exchange, error));
      exchange.downstream = call.reply;
      noteInLog(exchange, { name: 'grpc_method', text: call.match.binding.rpcPath });
    };

    return {
      admit: (exchange) => (transcoder === undefined ? loading.then(() => admit(exchange)) : admit(exchange)),
      serve(exchange) {
        const call = calls.get(exchange);
        if (call !== undefined)
          return waitsForBody(exchange)
            ? gatherBody(exchange).then(() => encode(exchange, call))
            : encode(exchange, call);
        if (exchange.grpc || exchange.webSocket || !plan.requestValidationOptions.rejectUnknownMethod) return;
        throw refusal(exchange, unknownMethod(transcoder!.find(exchange.method, pathWithoutQuery(exchange.path))));
      },
      // Policies and authorizers have evaluated the client's request.
      rewrite(exchange) {
        const call = calls.get(exchange);
        if (call === undefined) return;
        changeRequest(exchange, replaced, [
          ['content-type', 'application/grpc'],
          ['te', 'trailers'],
        ]);
        exchange.method = 'POST';
        exchange.path = call.match.binding.rpcPath;
        // The body is complete.
        exchange.expectContinue = false;
        // Messages are counted, and the balancer gets the status of the call.
        exchange.grpc = true;
      },
      forwarded(exchange) {
        if (calls.get(exchange) === undefined) return;
        // From here on the exchange shows the client's view: an HTTP request.
        exchange.grpc = false;
        if (exchange.carrier !== undefined) exchange.carrier = new Finished(exchange.carrier);
      },
      denial: (exchange, denial) => {
        const { failure } = exchange;
        const type = headerOf(exchange, 'content-type', denial.fields);
        if (failure === undefined || (type !== undefined && !type.startsWith('text/plain'))) return denial;
        const fields = filterFields(denial.fields, ({ lower }) => lower !== 'content-type');
        return {
          status: denial.status,
          fields: addFields(fields, jsonType),
          body: statusOf(failure, denial.body.toString()),
        };
      },
      finished(exchange) {
        const call = calls.get(exchange);
        if (call === undefined) return;
        call.reply?.drop();
        // The record shows the client's request.
        Object.assign(exchange, { method: call.method, path: call.path });
      },
    };
  },
};

const empty = Buffer.alloc(0);
const jsonType: readonly (readonly [string, string])[] = [['content-type', 'application/json']];

/** Fields that the backend does not get: they describe the JSON, or request a response that could not be read here. */
const replaced: ReadonlySet<string> = new Set([
  ...['content-type', 'content-encoding', 'content-language', 'te', 'accept', 'accept-encoding', 'trailer'],
  ...['grpc-encoding', 'grpc-accept-encoding', 'range'],
]);

function formOf({ printOptions }: GrpcJsonPlan): StreamForm {
  if (printOptions.streamSseStyleDelimited) return streamForms.events;
  return printOptions.streamNewlineDelimited ? streamForms.lines : streamForms.array;
}

/**
 * A page of another origin can send text/plain without a preflight, and a body without a type: only JSON is read as
 * JSON.
 */
function checkType(exchange: Exchange, body: Buffer): void {
  if (body.length === 0) return;
  const type = headerOf(exchange, 'content-type') ?? '';
  if (!/^application\/(?:[\w.-]+\+)?json[ \t]*(?:;[ \t]*charset="?utf-8"?)?[ \t]*$/i.test(type))
    throw new Refusal('content_type_unsupported', 'the body must be application/json');
  const coding = headerOf(exchange, 'content-encoding');
  if (coding !== undefined && coding.trim().toLowerCase() !== 'identity')
    throw new Refusal('content_encoding_unsupported', 'an encoded body cannot be transcoded');
}

function unknownMethod(methods: ReturnType<Transcoder['find']>): SallyportError {
  return Array.isArray(methods)
    ? new Refusal('operation_method_unknown', `no method of the services has this HTTP method: ${methods.join(', ')}`)
    : new Refusal('operation_unknown', 'no method of the services has this path');
}

/** A refusal with its reason, which concerns the client's own request and names fields only. */
function refusal(exchange: Exchange, error: unknown): unknown {
  if (!(error instanceof Refusal)) return error;
  const body = statusOf(error, error.message);
  return deny(exchange, error, {
    denial: { status: error.row.status, fields: addFields(emptyFields, jsonType), body },
  });
}

/** google.rpc.Status as JSON. */
function statusOf({ row }: SallyportError, message: string): Buffer {
  return Buffer.from(JSON.stringify({ code: row.grpc, message, details: [] }));
}

/** The whole request has been sent: the bytes held meanwhile are its JSON, and are not forwarded. */
class Finished implements Carrier {
  readonly #inner: Carrier;

  constructor(inner: Carrier) {
    this.#inner = inner;
  }

  requestData(): boolean {
    return true;
  }

  requestEnd(): void {}

  downstreamDrained(): void {
    this.#inner.downstreamDrained();
  }

  downstreamGone(): void {
    this.#inner.downstreamGone();
  }

  idle(): void {
    this.#inner.idle();
  }
}
