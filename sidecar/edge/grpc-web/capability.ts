// gRPC-Web: calls from browsers, which can neither send HTTP/2 frames of their own nor read trailers. Forwarded as gRPC.

import type { SallyportError } from '../../../cert-agent/base/errors.ts';
import { type Exchange, Slot } from '../../exchange/exchange.ts';
import { headerOf } from '../../exchange/facts.ts';
import { changeRequest } from '../../exchange/fields.ts';
import type { Onward } from '../../exchange/onward.ts';
import type { Service } from '../capability.ts';
import { type Form, formOf } from './media-type.ts';
import { WebReply } from './reply.ts';
import { WebBody, WebRequest } from './request.ts';
import type { GrpcWebPlan } from './schema.ts';

/** The parts of the process that it uses. */
type Shared = Pick<Onward, 'refuse'>;

export const grpcWeb: Service<GrpcWebPlan, Shared> = {
  name: 'grpc-web',
  guards: false,
  callsGrpc: true,
  fields: [
    {
      ...{ kind: 'sallyport.dev/GRPCWeb', name: 'GRPCWeb' },
      schema: async () => (await import('./schema.ts')).grpcWebSchema,
    },
  ],
  share: ({ onward }) => onward,
  shareDry: () => ({ refuse() {} }),
  compile([planned], { shared }) {
    if (planned === undefined) return undefined;
    const failing = (exchange: Exchange) => (error: SallyportError) => shared.refuse(exchange, error);
    return {
      admit(exchange) {
        if (exchange.method !== 'POST') return;
        const form = formOf(headerOf(exchange, 'content-type'), headerOf(exchange, 'accept'));
        if (form === undefined) return;
        forms.set(exchange, form);
        // It is a stream of messages, and its refusals have a gRPC status.
        exchange.grpc = true;
        exchange.downstream = new WebReply(exchange, form.textReply, failing(exchange));
      },
      // Policies and authorizers have evaluated the client's request.
      rewrite(exchange) {
        const form = forms.get(exchange);
        if (form === undefined) return;
        changeRequest(exchange, replaced, [
          ['content-type', form.contentType],
          ['te', 'trailers'],
        ]);
        if (exchange.wholeBody !== undefined) {
          exchange.wholeBody = new WebBody(form.textRequest).readWhole(exchange.wholeBody);
          exchange.framing = exchange.wholeBody.length;
        } else if (exchange.framing !== 0 && form.textRequest) exchange.framing = 'chunked';
      },
      forwarded(exchange) {
        const form = forms.get(exchange);
        const { carrier, framing, wholeBody } = exchange;
        if (form === undefined || carrier === undefined || framing === 0 || wholeBody !== undefined) return;
        exchange.carrier = new WebRequest(carrier, new WebBody(form.textRequest), failing(exchange));
      },
    };
  },
};

/** The calls in gRPC-Web. */
const forms = new Slot<Form>();

const replaced: ReadonlySet<string> = new Set(['content-type', 'te']);
