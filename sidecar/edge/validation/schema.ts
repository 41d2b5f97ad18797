// `RequestValidation`, a kind of our own: a JSON Schema for the bodies of requests. It is compiled here, in the process
// that reads documents, into programs as text.

import { z } from 'zod';
import { quantity } from '../../schema/quantity.ts';
import { draftOf, generate, type Programs, problemsOf, type SchemaProblem } from './generate.ts';
import { namesIn } from './subschemas.ts';

/** What is in force: plain data. */
export interface ValidationPlan {
  readonly mode: 'Enforce' | 'Report';
  readonly limitBytes: number;
  readonly programs: Programs;
  /** Names of properties that the schemas have: they may be logged. */
  readonly names: readonly string[];
}

/** A schema as written. `true` accepts everything, and `false` nothing: neither says anything about a body. */
const jsonSchema = z.record(z.string(), z.unknown());

export const requestValidation = z
  .strictObject({
    /** Report only counts and logs violations. */
    mode: z.enum(['Enforce', 'Report']).default('Enforce'),
    /** Of a body, also after decompression. */
    bodyLimit: quantity.default(2 ** 20),
    schema: jsonSchema,
  })
  .transform(({ mode, bodyLimit, schema }, context): ValidationPlan => {
    const fail = (problems: readonly SchemaProblem[]): typeof z.NEVER => {
      for (const { path, message } of problems) context.addIssue({ code: 'custom', path: [...path], message });
      return z.NEVER;
    };
    const draft = draftOf(schema);
    if (draft === undefined)
      return fail([
        { path: ['schema', '$schema'], message: `'${schema['$schema']}' is none of the dialects 2020-12 and draft-07` },
      ]);
    const problems = problemsOf(schema, draft, ['schema']);
    if (problems.length > 0) return fail(problems);
    try {
      const programs = generate(schema, draft, { body: 'schema:' });
      return { mode, limitBytes: bodyLimit, programs, names: namesIn([schema]) };
    } catch (error) {
      return fail([{ path: ['schema'], message: (error as Error).message }]);
    }
  });
