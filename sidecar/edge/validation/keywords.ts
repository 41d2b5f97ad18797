// The fields of OpenAPI's objects (3.1.1 section 4.8), and the subjects of its schema keywords.

import type { Node } from './subschemas.ts';

const methods = ['get', 'put', 'post', 'delete', 'options', 'head', 'patch', 'trace'];
const described = ['description', '$ref', 'summary'];
const ofHeaders = ['required', 'deprecated', 'style', 'explode', 'schema', 'example', 'examples', 'content'];

const fields = {
  document: [
    ...['openapi', 'info', 'jsonSchemaDialect', 'servers', 'paths', 'webhooks', 'components', 'security', 'tags'],
    'externalDocs',
  ],
  'path item': [...described, ...methods, 'servers', 'parameters'],
  operation: [
    ...['tags', 'summary', 'description', 'externalDocs', 'operationId', 'parameters', 'requestBody', 'responses'],
    ...['callbacks', 'deprecated', 'security', 'servers'],
  ],
  parameter: [...described, ...ofHeaders, 'name', 'in', 'allowEmptyValue', 'allowReserved'],
  'request body': [...described, 'content', 'required'],
  'media type': ['schema', 'example', 'examples', 'encoding'],
  encoding: ['contentType', 'headers', 'style', 'explode', 'allowReserved'],
  response: [...described, 'headers', 'content', 'links'],
} as const;

/** An object of OpenAPI whose fields are checked. */
export type Kind = keyof typeof fields;

/** The names in an object that OpenAPI does not define there, except `x-`: they would have no effect. */
export function unknownFields(kind: Kind, node: Node): string[] {
  const known: readonly string[] = fields[kind];
  return Object.keys(node).filter((name) => !known.includes(name) && !name.startsWith('x-'));
}

/** Keywords that do not restrict a value. */
const annotations: ReadonlySet<string> = new Set([
  ...['title', 'description', 'default', 'example', 'examples', 'deprecated', 'readOnly', 'writeOnly', '$comment'],
  ...['externalDocs', 'xml', 'discriminator', 'contentMediaType', 'contentEncoding', 'contentSchema'],
  ...['$defs', 'definitions'],
]);

/** True for a keyword that does not restrict a value. */
export function isAnnotation(keyword: string): boolean {
  return annotations.has(keyword) || keyword.startsWith('x-');
}

/** Keywords whose schemas are for another value than their own (a property, an item), or for none. */
export const values: ReadonlySet<string> = new Set([
  ...['properties', 'patternProperties', 'additionalProperties', 'propertyNames', 'unevaluatedProperties'],
  ...['items', 'prefixItems', 'additionalItems', 'contains', 'unevaluatedItems', 'contentSchema'],
  ...['$defs', 'definitions'],
]);
