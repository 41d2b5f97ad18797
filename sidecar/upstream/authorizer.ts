// An extension provider, compiled for requests: where it is, and which of Envoy's two forms it uses.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Asked, Authorizer, Ruling } from '../exchange/authorizer.ts';
import type { Destination } from '../exchange/upstream.ts';
import { grpcFields, grpcStatusOf } from '../protocol/grpc.ts';
import { type HttpAuthorizer, toldOf } from '../protocol/http-authorizer.ts';
import { ask } from './ask.ts';

/** The fields of both forms. */
export interface AuthorizerPlan {
  readonly name: string;
  /** `service:port`, for the Host of requests to it. */
  readonly authority: string;
  readonly timeoutMs: number;
  readonly statusOnError: number;
  /** Present for the HTTP form; absent for gRPC. */
  readonly http: HttpAuthorizer | undefined;
}

/** The authorizer of a plan. Its messages are loaded on first use: most sidecars have none. */
export function createAuthorizer(plan: AuthorizerPlan, destination: Destination): Authorizer {
  const { name, statusOnError, http } = plan;
  return Object.freeze({
    name,
    kind: http === undefined ? 'grpc' : 'http',
    statusOnError,
    // The gRPC form gets every field.
    judges: http === undefined ? () => true : toldOf(http),
    ask: http === undefined ? askGrpc : askHttp,
  });

  async function askHttp(asked: Asked): Promise<Ruling> {
    const { httpQuestion, readHttpAnswer } = await import('../protocol/ext-authz.ts');
    const question = { ...httpQuestion(asked, http!), body: undefined };
    return readHttpAnswer(await ask(destination, question, plan.timeoutMs), http!);
  }

  async function askGrpc(asked: Asked): Promise<Ruling> {
    const { checkPath, decodeCheck, encodeCheck } = await import('../protocol/ext-authz.ts');
    const answer = await ask(
      destination,
      { method: 'POST', path: checkPath, authority: plan.authority, fields: grpcFields, body: encodeCheck(asked) },
      plan.timeoutMs,
    );
    const status = grpcStatusOf(answer.trailers) ?? grpcStatusOf(answer.fields);
    if (answer.status !== 200 || status !== 0)
      throw new SallyportError(
        'ext_authz_failed',
        `the authorizer answered ${answer.status} with grpc-status ${status ?? 'missing'}`,
      );
    return decodeCheck(answer.body);
  }
}
