// `RequestValidation`, a kind of our own: an OpenAPI document, or a JSON Schema for the bodies of requests. Both are
// compiled here, in the process that reads documents, into programs as text.

import { z } from 'zod';
import { quantity } from '../../schema/quantity.ts';
import type { ApiPlan } from './api-plan.ts';
import { draftOf, generateAll, generateOne, type Programs, problemsOf, type SchemaProblem } from './generate.ts';
import { readOpenApi } from './openapi.ts';
import { type Node, namesIn } from './subschemas.ts';

interface Compiled {
  readonly programs: Programs;
  /** Absent with a JSON Schema alone, whose function is `body`. */
  readonly api?: ApiPlan;
  /** Names of properties that the schemas have: they may be logged. */
  readonly names: readonly string[];
  /** Parts that are not compared. */
  readonly warnings: readonly SchemaProblem[];
}

const object = z.record(z.string(), z.unknown(), {
  error: ({ input }) =>
    typeof input === 'string' ? 'must be the document itself: files and URLs are not read here' : undefined,
});

export const requestValidation = z
  .strictObject({
    mode: z
      .enum(['Enforce', 'Report'])
      .default('Enforce')
      .describe('`Report` only counts and logs violations; `Enforce` refuses.'),
    bodyLimit: quantity
      .default(2 ** 20)
      .describe(
        'The largest body, also after decompression. `Enforce` refuses a larger one, and `Report` does not compare it.',
      ),
    codedForms: z
      .enum(['Accept', 'Refuse'])
      .default('Refuse')
      .describe(
        'Forms and texts with a Content-Encoding. Accept them only if the app decodes them: another app would read fields in the encoded bytes.',
      ),
    // `true` and `false` do not restrict a body.
    schema: object.optional().meta({
      description: 'A JSON Schema for the bodies of requests, in place of `openapi`.',
      example: { type: 'object', required: ['id'] },
    }),
    openapi: object.optional().meta({
      description: 'The whole OpenAPI document that requests are compared with.',
      example: { openapi: '3.1.0', info: { title: 'orders', version: '1' }, paths: {} },
    }),
    responses: z
      .enum(['Report', 'Off'])
      .default('Report')
      .describe('Whether responses are compared as well. They are never refused.'),
    basePath: z
      .string()
      .regex(/^\//, 'must begin with a slash')
      .optional()
      .meta({ description: 'Replaces the paths of `servers` of the OpenAPI document.', example: '/v1' }),
    escapedSlashes: z
      .enum(['Refuse', 'Accept'])
      .optional()
      .describe('Whether variables of a path may hold `%2F` and `%5C`. By default they may not.'),
  })
  .superRefine(({ schema, openapi, basePath, escapedSlashes }, context) => {
    const issue = (message: string, path: string[] = []): void => context.addIssue({ code: 'custom', path, message });
    if ((schema === undefined) === (openapi === undefined)) issue("needs exactly one of 'openapi' and 'schema'");
    if (basePath !== undefined && openapi === undefined) issue("belongs to 'openapi'", ['basePath']);
    if (escapedSlashes !== undefined && openapi === undefined) issue("belongs to 'openapi'", ['escapedSlashes']);
  })
  .transform(({ mode, bodyLimit, codedForms, responses, schema, openapi, basePath, escapedSlashes }, context) => {
    const deep = (['schema', 'openapi'] as const).find((one) => isDeep({ schema, openapi }[one]));
    if (deep !== undefined) {
      context.addIssue({ code: 'custom', path: [deep], message: `is nested more than ${maxDepth} levels deep` });
      return z.NEVER;
    }
    const compiled =
      openapi === undefined
        ? compileSchema(schema ?? {})
        : compileOpenApi(openapi, basePath, escapedSlashes === 'Accept');
    if ('programs' in compiled)
      return {
        ...{ mode, limitBytes: bodyLimit, codedForms: codedForms === 'Accept' },
        ...{ responses: openapi !== undefined && responses === 'Report', ...compiled },
      };
    for (const { path, message } of compiled.slice(0, maxProblems))
      context.addIssue({ code: 'custom', path: [...path], message });
    return z.NEVER;
  })
  .describe('Compares requests and responses with an OpenAPI document or a JSON Schema.');

/** The compiled policy: plain data. */
export type ValidationPlan = Readonly<z.output<typeof requestValidation>>;

/** The code that reads and compiles schemas recurses for each level. */
const maxDepth = 150;

/** By levels, so that parts that YAML's aliases share are visited once in each. */
function isDeep(document: unknown): boolean {
  let level: ReadonlySet<object> = new Set([{ document }]);
  for (let depth = 0; depth <= maxDepth && level.size > 0; depth++)
    level = new Set(
      [...level].flatMap((one) => Object.values(one).filter((sub) => typeof sub === 'object' && sub !== null)),
    );
  return level.size > 0;
}

/** The first few are enough: a wrong version causes thousands. */
const maxProblems = 100;

function compileSchema(schema: Node): Compiled | readonly SchemaProblem[] {
  const draft = draftOf(schema);
  if (draft === undefined)
    return [
      {
        path: ['schema', '$schema'],
        message: `'${String(schema['$schema'])}' is neither the dialect 2020-12 nor draft-07`,
      },
    ];
  const problems = problemsOf(schema, draft, ['schema']);
  if (problems.length > 0) return problems;
  try {
    const programs = generateOne(schema, draft);
    return { programs, names: namesIn([schema]), warnings: [] };
  } catch (error) {
    return [{ path: ['schema'], message: (error as Error).message }];
  }
}

function compileOpenApi(
  document: Node,
  basePath: string | undefined,
  escapedSlashes: boolean,
): Compiled | readonly SchemaProblem[] {
  const { plan, schema, problems, warnings, placeOf } = readOpenApi(document, ['openapi'], basePath);
  const all = [
    ...problems,
    ...problemsOf(schema, '2020-12').map(({ path, message }) => ({ path: placeOf(path), message })),
  ];
  if (all.length > 0) return all;
  try {
    const programs = generateAll(schema);
    return { programs, api: { ...plan, escapedSlashes }, names: namesIn([schema]), warnings };
  } catch (error) {
    return [{ path: ['openapi'], message: (error as Error).message }];
  }
}
