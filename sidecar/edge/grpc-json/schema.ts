// `GRPCJSONTranscoding`, a kind of our own. Options have the names of Envoy's grpc_json_transcoder, in camel case.
// Different defaults: unknown methods are refused, and statuses are always converted.

import { z } from 'zod';
import { quantity } from '../../schema/quantity.ts';
import { readBindings } from './bindings.ts';

const base64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

const flag = z.boolean().default(false);

export const grpcJsonSchema = z
  .strictObject({
    /** A FileDescriptorSet in base64: `protoc --include_imports --descriptor_set_out=/dev/stdout ... | base64`. */
    protoDescriptorBin: z.string().transform((text) => text.replace(/\s/g, '')),
    /** Full names of the services that are transcoded. */
    services: z.array(z.string()).min(1),
    /** How responses are printed. */
    printOptions: z
      .strictObject({
        addWhitespace: flag,
        alwaysPrintPrimitiveFields: flag,
        alwaysPrintEnumsAsInts: flag,
        preserveProtoFieldNames: flag,
        /** Streams as one JSON value a line; by default they are one array. */
        streamNewlineDelimited: flag,
        /** Streams as server-sent events. */
        streamSseStyleDelimited: flag,
      })
      .prefault({})
      .refine(
        ({ streamNewlineDelimited, streamSseStyleDelimited }) => !streamNewlineDelimited || !streamSseStyleDelimited,
        {
          message: 'a stream is delimited in one way',
        },
      )
      .refine(
        ({ addWhitespace, streamNewlineDelimited, streamSseStyleDelimited }) =>
          !addWhitespace || !(streamNewlineDelimited || streamSseStyleDelimited),
        { message: 'addWhitespace cannot be combined with delimited streams' },
      ),
    /** Methods without a rule are `POST /package.Service/Method`. */
    autoMapping: flag,
    ignoredQueryParameters: z.array(z.string()).default([]),
    ignoreUnknownQueryParameters: flag,
    /** `+` in a query is a space. */
    queryParamUnescapePlus: flag,
    requestValidationOptions: z.strictObject({ rejectUnknownMethod: z.boolean().default(true) }).prefault({}),
    maxRequestBodySize: quantity.default(2 ** 20),
    /** Of one message of a response. */
    maxResponseBodySize: quantity.default(2 ** 20),
  })
  .superRefine(({ protoDescriptorBin, services, autoMapping }, context) => {
    if (!base64.test(protoDescriptorBin)) {
      context.addIssue({ code: 'custom', path: ['protoDescriptorBin'], message: 'not base64' });
      return;
    }
    const read = readBindings(protoDescriptorBin, services, autoMapping);
    if ('bindings' in read) return;
    for (const { path, message } of read.problems.slice(0, maxProblems))
      context.addIssue({ code: 'custom', path: [...path], message });
  });

/** The first few are enough: a wrong set has one at each method. */
const maxProblems = 100;

/** The document as written, with its defaults. It is plain data: the set is read again where it is served. */
export type GrpcJsonPlan = z.output<typeof grpcJsonSchema>;
