// The part of an OpenAPI document that is in force: plain data. Schemas are names of generated functions.

/** An API. */
export interface ApiPlan {
  readonly operations: readonly Operation[];
  /** Variables of a path may hold an escaped slash or backslash. */
  readonly escapedSlashes: boolean;
}

/** One method on one path of the document. */
export interface Operation {
  /** In capitals. */
  readonly method: string;
  /** The template of the path, as written: `/pets/{id}`. */
  readonly path: string;
  readonly operationId?: string;
  /** Paths in front of it, without a slash at the end: from `servers`. */
  readonly basePaths: readonly string[];
  readonly parameters: readonly Parameter[];
  readonly body: Body | undefined;
  readonly responses: readonly Response[];
  /** Alternatives, each a list of schemes that are all needed; undefined if the document has none. */
  readonly security: readonly (readonly Scheme[])[] | undefined;
}

/** A security scheme as far as it can be compared with a policy. */
export interface Scheme {
  readonly name: string;
  /** `http bearer`, `apiKey header x-key`, `oauth2`, `openIdConnect`, `mutualTLS`. */
  readonly type: string;
}

/** OpenAPI's `style` (Parameter Object), with its default filled in. */
export type Style = 'simple' | 'label' | 'matrix' | 'form' | 'spaceDelimited' | 'pipeDelimited' | 'deepObject';

/** How a value is written as text. */
export interface Written {
  readonly style: Style;
  readonly explode: boolean;
  /** Its text is JSON. */
  readonly json: boolean;
  readonly shape: Shape;
}

/** One parameter, those of the path item included. */
export interface Parameter extends Written {
  readonly in: 'path' | 'query' | 'header' | 'cookie';
  readonly name: string;
  readonly required: boolean;
  readonly allowEmpty: boolean;
  /** The function for its schema; undefined without one. */
  readonly schema: string | undefined;
}

/** The JSON values that a text can stand for. */
export interface Shape {
  /** Types of JSON; empty if the schema does not say. */
  readonly types: readonly string[];
  readonly items?: Shape;
  readonly properties?: Readonly<Record<string, Shape>>;
  /** The schema restricts properties of other names. */
  readonly isOpen?: boolean;
  /** The bytes of a file. */
  readonly isBinary?: boolean;
}

/** A request body. Without an entry of `content` for its type, a body is refused. */
export interface Body {
  readonly required: boolean;
  /** The most specific type first. */
  readonly content: readonly Content[];
}

/** One media type, and how its bodies are compared: `schema` is the name of a generated function. */
export interface Content {
  /** In lower case: `application/json`, `text/*`, or a type and a subtype of all. */
  readonly type: string;
  readonly schema: string | undefined;
  readonly shape: Shape;
  /** Of the properties of a form. */
  readonly parts: Readonly<Record<string, Part>>;
}

/** A property of a form, or a part of multipart/form-data. */
export interface Part extends Written {
  /** Media types that are accepted; empty: any. */
  readonly types: readonly string[];
}

/** The responses of one status, or of a range of them. */
export interface Response {
  /** `200`, `2XX` or `default`. */
  readonly status: string;
  readonly content: readonly Content[];
}
