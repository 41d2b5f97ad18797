// The fields of OpenAPI's objects (3.1.1 section 4.8). Another name would be a promise without effect, except `x-`.

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

/** The names in an object that OpenAPI does not know there. */
export function unknownFields(kind: Kind, node: Node): string[] {
  const known: readonly string[] = fields[kind];
  return Object.keys(node).filter((name) => !known.includes(name) && !name.startsWith('x-'));
}
