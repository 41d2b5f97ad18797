// The schemas of all capabilities, by kind of document. Loaded by the process that reads documents, not by those that
// serve.

import type { ZodType } from 'zod';
import { capabilities, fieldsOf } from './capabilities.ts';
import type { AnyCapability, Field } from './capability.ts';

/** Each field of a kind, optional, for the strict object of its spec. */
export async function schemasOf(
  kind: Field['kind'],
  table: readonly AnyCapability[] = capabilities,
): Promise<Record<string, ZodType>> {
  const fields = [...fieldsOf(kind, table).values()];
  const read = await Promise.all(
    fields.map(async ({ field }) => [field.name, (await field.schema()).optional()] as const),
  );
  return Object.fromEntries(read);
}
