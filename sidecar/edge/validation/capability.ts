// Compares requests with the schema of their API, and refuses or reports those that do not match.

import { codes, SallyportError } from '../../../cert-agent/base/errors.ts';
import { deny } from '../../exchange/decision.ts';
import type { Denial } from '../../exchange/ends.ts';
import { type Exchange, Slot } from '../../exchange/exchange.ts';
import { headerOf } from '../../exchange/facts.ts';
import { addFields } from '../../exchange/fields.ts';
import { emptyFields, type Reply } from '../../exchange/message.ts';
import { noteInLog } from '../../exchange/noted.ts';
import { foldName } from '../../policy/header-name.ts';
import { limitBody } from '../../protocol/body-limit.ts';
import type { Guarding } from '../capability.ts';
import { decodeBody, isLoose, isPlain, readContentType } from '../content.ts';
import { gatherBody, waitsForBody, wholeBodyOf } from '../gather-body.ts';
import { type Api, compileApi, type Validators } from './api.ts';
import type { Operation } from './api-plan.ts';
import { inBudget } from './budget.ts';
import { forgetInexact } from './exact.ts';
import { checkJsonBody } from './json-body.ts';
import type { Count } from './metrics.ts';
import { codeOf, problemOf } from './problem.ts';
import { dropCopy, watchResponses } from './response.ts';
import type { ValidationPlan } from './schema.ts';
import { loadValidators, type Validate } from './support.ts';
import { describe, isValid, type Validator, type Verdict } from './violation.ts';

const warnings = (plan: ValidationPlan): ValidationPlan['warnings'] => plan.warnings;

export const validation: Guarding<ValidationPlan, Count | undefined> = {
  name: 'validation',
  guards: 'requests',
  perPolicy: true,
  inboundOnly: true,
  fields: [
    {
      ...{ kind: 'sallyport.dev/RequestValidation', name: 'RequestValidation', keepsNulls: true, warnings },
      schema: async () => (await import('./schema.ts')).requestValidation,
    },
    {
      ...{ kind: 'sidecar.yaml', name: 'requestValidation', warnings },
      schema: async () => (await import('./schema.ts')).requestValidation,
    },
  ],
  ownHeaders: () => [],
  secretParams: () => [],
  async share({ registry }) {
    const { registerValidationMetrics } = await import('./metrics.ts');
    return registerValidationMetrics(registry);
  },
  shareDry: () => undefined,
  compile([planned], { name, policy, shared }) {
    if (planned === undefined) return undefined;
    const { mode, limitBytes, codedForms, programs, names } = planned.plan;
    const count = shared?.bind(undefined, policy);
    const enforces = mode === 'Enforce';
    const known = new Set(names);
    const validators = validatorsOf(programs);
    const api = planned.plan.api && compileApi(planned.plan.api, validators);
    const compare = api?.checkRequest ?? bodyComparer(validators('body'));

    /** Records the verdict. @throws SallyportError in mode Enforce, with the code of the first fault. */
    const conclude = (exchange: Exchange, verdict: Verdict): void => {
      if (isValid(verdict)) {
        count?.('request', mode, 'valid');
        passed.set(exchange, true);
        return;
      }
      count?.('request', mode, 'invalid');
      const text = summaryOf(verdict, known);
      noteInLog(exchange, { name: 'validation', text });
      if (enforces) throw refusal(exchange, verdict, text, name);
    };

    const check = (exchange: Exchange, body: Buffer): void => {
      const verdict = withBudget(() => compare(exchange, body), enforces);
      if (verdict === undefined) count?.('request', mode, 'unchecked');
      else conclude(exchange, verdict);
    };

    /** The body is longer than the limit. Fails closed in mode Enforce. */
    const leave = (exchange: Exchange): void => {
      if (enforces) conclude(exchange, { fault: 'body_too_large', violations: [] });
      else count?.('request', mode, 'unchecked');
    };

    const inspect = (exchange: Exchange): undefined | Promise<void> => {
      const body = wholeBodyOf(exchange) ?? (exchange.framing === 0 ? none : undefined);
      const coding = headerOf(exchange, encodingField);
      if (body === undefined || body.length > limitBytes) leave(exchange);
      else if (body.length > 0 && !isCodingClear(exchange, codedForms))
        conclude(exchange, { fault: 'content_encoding_unsupported', violations: [] });
      else if (body.length === 0 || isPlain(coding)) check(exchange, body);
      else return inspectCoded(exchange, body, coding!);
      return undefined;
    };

    const inspectCoded = async (exchange: Exchange, body: Buffer, coding: string): Promise<void> => {
      const decoded = await decodeBody(body, coding, limitBytes);
      if (typeof decoded === 'string') conclude(exchange, { fault: decoded, violations: [] });
      else check(exchange, decoded);
    };

    const watches = api !== undefined && planned.plan.responses;
    /** A response of an operation in the document. */
    const concludeResponse = (exchange: Exchange, reply: Reply, body: Buffer | undefined): void => {
      const operation = operations.get(exchange);
      if (operation === undefined) return;
      const type = headerOf(exchange, 'content-type', reply.fields);
      const verdict = withBudget(() => api!.checkResponse(operation, reply.status, type, body), false);
      if (verdict === undefined) return void count?.('response', 'Report', 'unchecked');
      count?.('response', 'Report', !isValid(verdict) ? 'invalid' : body === undefined ? 'unchecked' : 'valid');
      if (!isValid(verdict)) noteInLog(exchange, { name: 'response_validation', text: summaryOf(verdict, known) });
    };

    return {
      ...(watches ? { watch: watchResponses(limitBytes, concludeResponse), finished: dropCopy } : {}),
      // Refusals by codecs and other steps while a body arrives have the same form.
      denial: (exchange, denial) => (enforces ? asProblem(exchange, denial) : denial),
      admit(exchange) {
        if (!enforces) return;
        if (exchange.grpc)
          throw deny(exchange, new SallyportError('content_type_unsupported', `${name}: gRPC cannot be validated`));
        if (exchange.webSocket || exchange.method === 'CONNECT')
          throw deny(exchange, new SallyportError('upgrade_unsupported', `${name}: a tunnel cannot be validated`));
        limitBody(exchange, limitBytes, name);
      },
      serve(exchange) {
        if (exchange.grpc || exchange.webSocket) return void count?.('request', mode, 'unchecked');
        if (watches) {
          // Its path may be rewritten before the response arrives.
          const found = api.find(exchange);
          if ('operation' in found) operations.set(exchange, found.operation);
        }
        if (!waitsForBody(exchange)) return inspect(exchange);
        const { framing } = exchange;
        // In mode Report a body that is too long is forwarded as it arrives.
        if (typeof framing === 'number' && framing > limitBytes) return leave(exchange);
        return gatherBody(exchange, enforces ? undefined : limitBytes).then(() => inspect(exchange));
      },
      // A compared request has been received completely, and a new schema cannot take it back.
      guard: { known: undefined, stillHolds: (exchange) => !enforces || passed.get(exchange) === true },
    };
  },
};

const none = Buffer.alloc(0);
const encodingField = 'content-encoding';

/**
 * False if the app may decode the body differently. It gets the encoded bytes: an app that does not decode
 * a form reads fields that its sender wrote into those bytes (a gzip comment is enough). No JSON parser accepts
 * the first bytes of gzip, deflate or zstd; those of brotli can be JSON.
 */
function isCodingClear(exchange: Exchange, codedForms: boolean): boolean {
  // `Content_Encoding` reaches the app, which may know it or not.
  const folded = foldName(encodingField);
  if (exchange.fields.names.some((one) => one.folded === folded && one.lower !== encodingField)) return false;
  const coding = headerOf(exchange, encodingField);
  if (codedForms || isPlain(coding)) return true;
  if (coding?.trim().toLowerCase() === 'br') return false;
  const type = readContentType(headerOf(exchange, 'content-type') ?? '');
  return type === undefined || !isLoose(type.type);
}

/**
 * The verdict of a message, within its budget. An internal error refuses it in mode Enforce; in mode Report it has no
 * verdict, since that mode refuses nothing.
 */
function withBudget(compare: () => Verdict, enforces: boolean): Verdict | undefined {
  try {
    forgetInexact();
    return inBudget(compare);
  } catch (error) {
    if (error instanceof SallyportError) return { fault: error.code, violations: [] };
    // A text of many megabytes can overflow the stack of an expression.
    if (error instanceof RangeError) return { fault: 'validation_too_costly', violations: [] };
    if (enforces) throw error;
    return undefined;
  }
}

/** Up to three places, for the log. */
function summaryOf({ fault, violations }: Verdict, known: ReadonlySet<string>): string {
  return [...(fault === undefined ? [] : [fault]), ...violations.slice(0, 3).map((one) => describe(one, known))].join(
    '; ',
  );
}

/** Operations of requests whose responses are compared. */
const operations = new Slot<Operation>();

/** Requests that matched. */
const passed = new Slot<boolean>();

/** The functions of a plan's programs by name. The second program is loaded when it is first needed. */
function validatorsOf(programs: ValidationPlan['programs']): Validators {
  const verdicts = loadValidators(programs.verdict);
  let places: Readonly<Record<string, Validate>> | undefined;
  return (name) => ({
    verdict: verdicts[name]!,
    places() {
      places ??= loadValidators(programs.places);
      return places[name]!;
    },
  });
}

function bodyComparer(validator: Validator): Api['checkRequest'] {
  return (exchange, body) => checkJsonBody(exchange, body, validator);
}

function asProblem({ denial: own, failure }: Exchange, denial: Denial): Denial {
  if (own !== undefined || (failure?.code !== 'body_too_large' && failure?.code !== 'upgrade_unsupported'))
    return denial;
  return denialOf({ fault: failure.code, violations: [] });
}

function denialOf(verdict: Verdict): Denial {
  const fields = [
    ['content-type', 'application/problem+json'],
    ['cache-control', 'no-store'],
    ...(verdict.fields ?? []),
  ];
  return {
    status: codes[codeOf(verdict)].status,
    fields: addFields(emptyFields, fields as [string, string][]),
    body: problemOf(verdict),
  };
}

function refusal(exchange: Exchange, verdict: Verdict, text: string, policy: string): SallyportError {
  const error = new SallyportError(codeOf(verdict), `${policy}: ${text}`);
  return deny(exchange, error, { denial: denialOf(verdict) });
}
