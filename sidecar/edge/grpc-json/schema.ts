// `GRPCJSONTranscoding`, a kind of our own. Options have the names of Envoy's grpc_json_transcoder, in camel case.
// Different defaults: unknown methods are refused, and statuses are always converted.

import { z } from 'zod';
import { quantity } from '../../schema/quantity.ts';
import { readBindings } from './bindings.ts';

const base64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

const flag = z.boolean().default(false);

export const grpcJsonSchema = z
  .strictObject({
    protoDescriptorBin: z
      .string()
      .transform((text) => text.replace(/\s/g, ''))
      .meta({
        description:
          'A FileDescriptorSet in base64: `protoc --include_imports --descriptor_set_out=/dev/stdout ... | base64`.',
        example: 'CpcDCgtvcmRlcnMucHJvdG8=',
      }),
    services: z
      .array(z.string())
      .min(1)
      .meta({ description: 'Full names of the services that are transcoded.', example: ['shop.Orders'] }),
    printOptions: z
      .strictObject({
        addWhitespace: flag.describe('Prints over several lines.'),
        alwaysPrintPrimitiveFields: flag.describe('Prints fields that have their default value.'),
        alwaysPrintEnumsAsInts: flag.describe('Prints enums as numbers.'),
        preserveProtoFieldNames: flag.describe('Prints names as in the .proto file, not in camel case.'),
        streamNewlineDelimited: flag.describe('Prints a stream as one JSON value a line; by default it is one array.'),
        streamSseStyleDelimited: flag.describe('Prints a stream as server-sent events.'),
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
      )
      .describe('How responses are printed.'),
    autoMapping: flag.describe('Serves methods without a rule as `POST /package.Service/Method`.'),
    ignoredQueryParameters: z
      .array(z.string())
      .default([])
      .meta({ description: 'Query parameters that are no fields.', example: ['key'] }),
    ignoreUnknownQueryParameters: flag.describe('Ignores query parameters that are no fields.'),
    queryParamUnescapePlus: flag.describe('Reads `+` in a query as a space.'),
    requestValidationOptions: z
      .strictObject({
        rejectUnknownMethod: z.boolean().default(true).describe('Refuses requests that no rule matches.'),
      })
      .prefault({})
      .describe('Which requests are refused.'),
    maxRequestBodySize: quantity.default(2 ** 20).describe('The largest body of a request.'),
    maxResponseBodySize: quantity.default(2 ** 20).describe('The largest message of a response.'),
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
