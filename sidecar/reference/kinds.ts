// Every file and document that is read, by name, with the JSON Schema of what people write.

import { z } from 'zod';
import { fixedOfGateway, fixedSettings } from '../config/fixed-settings.ts';
import { type JsonSchema, toJsonSchema, withApplies } from './json-schema.ts';

/** One kind. Its schema is made when it is asked for. */
export interface Kind {
  readonly name: string;
  /** Whose kind it is. `file`: a settings file of ours. */
  readonly of: 'file' | 'sallyport.dev' | 'Istio' | 'Gateway API' | 'Envoy Gateway' | 'Kubernetes';
  readonly description: string;
  schema(): Promise<JsonSchema>;
}

/** The kinds of a group, whose documents are read by one module. */
function group(of: Kind['of'], about: Readonly<Record<string, string>>, read: (name: string) => Promise<JsonSchema>) {
  return Object.entries(about).map(
    ([name, description]): Kind => ({ name, of, description, schema: () => read(name) }),
  );
}

async function ofFile(name: string): Promise<JsonSchema> {
  if (name === 'gateway') {
    const { gatewayYaml } = await import('../config/gateway-settings.ts');
    return withApplies(toJsonSchema(gatewayYaml), new Set([...fixedSettings, ...fixedOfGateway]));
  }
  const [{ sidecarYaml }, { schemasOf }] = await Promise.all([
    import('../config/sidecar-settings.ts'),
    import('../edge/schemas.ts'),
  ]);
  const whole = sidecarYaml.safeExtend((await schemasOf('sidecar.yaml')) as Record<never, never>);
  return withApplies(toJsonSchema(whole), new Set(fixedSettings));
}

/** A spec of ours is read in two parts: its targets, and the plan of its capability. */
async function ofOurs(name: string): Promise<JsonSchema> {
  const { documentHead, loadOwnKinds } = await import('../documents/sallyport.ts');
  const head = toJsonSchema(documentHead);
  const kinds = await loadOwnKinds(undefined, new Set([name]));
  const { $schema: _, ...plan } = toJsonSchema(kinds.get(name)!.plan!);
  const targets = head.properties!['spec']!;
  const description = plan.description ?? 'What the policy is for.';
  const spec = { ...plan, description, properties: { ...targets.properties, ...plan.properties } };
  const kind = { ...head.properties!['kind'], const: name };
  return { ...head, properties: { ...head.properties, kind, spec } };
}

async function ofIstio(name: string): Promise<JsonSchema> {
  const [{ authorizationPolicy }, { requestAuthentication }, { peerAuthentication }, { destinationRule }] =
    await Promise.all([
      import('../documents/istio/authorization-policy.ts'),
      import('../documents/istio/request-authentication.ts'),
      import('../documents/istio/peer-authentication.ts'),
      import('../documents/istio/destination-rule.ts'),
    ]);
  const kinds: Readonly<Record<string, z.ZodType>> = {
    AuthorizationPolicy: authorizationPolicy,
    RequestAuthentication: requestAuthentication,
    PeerAuthentication: peerAuthentication,
    DestinationRule: destinationRule,
  };
  return toJsonSchema(kinds[name]!);
}

async function ofGatewayApi(name: string): Promise<JsonSchema> {
  const { documentOf, gatewayKinds } = await import('../documents/gateway-api/gateway.ts');
  const document = documentOf(
    gatewayKinds[name as keyof typeof gatewayKinds].describe('What the document says.'),
  ).extend({
    kind: z.literal(name).describe('The kind of the document.'),
  });
  return toJsonSchema(document);
}

async function ofEnvoyGateway(name: string): Promise<JsonSchema> {
  const [{ securityPolicy }, { backendTrafficPolicy }, { clientTrafficPolicy }] = await Promise.all([
    import('../documents/envoy-gateway/security-policy.ts'),
    import('../documents/envoy-gateway/backend-traffic-policy.ts'),
    import('../documents/envoy-gateway/client-traffic-policy.ts'),
  ]);
  const kinds: Readonly<Record<string, z.ZodType>> = {
    SecurityPolicy: securityPolicy,
    BackendTrafficPolicy: backendTrafficPolicy,
    ClientTrafficPolicy: clientTrafficPolicy,
  };
  return toJsonSchema(kinds[name]!);
}

async function ofKubernetes(name: string): Promise<JsonSchema> {
  const { coreKinds } = await import('../documents/gateway-api/read.ts');
  return toJsonSchema(coreKinds[name as keyof typeof coreKinds]);
}

/** All kinds, in the order in which a reader meets them. */
export const kinds: readonly Kind[] = Object.freeze([
  ...group('file', { sidecar: 'sidecar.yaml: one sidecar.', gateway: 'gateway.yaml: one gateway.' }, ofFile),
  ...group(
    'Istio',
    {
      AuthorizationPolicy: 'Which callers may send which requests to a workload.',
      RequestAuthentication: 'The tokens of users that a workload accepts.',
      PeerAuthentication: 'Whether a workload accepts plaintext.',
      DestinationRule: 'How connections to an upstream are balanced, pooled and ended.',
    },
    ofIstio,
  ),
  ...group(
    'Gateway API',
    {
      Gateway: 'The listeners of a gateway: ports, hosts, certificates.',
      GatewayClass: 'The class of Gateways. Every class is ours.',
      HTTPRoute: 'Rules by which HTTP requests are passed to backends.',
      GRPCRoute: 'Rules by which gRPC calls are passed to backends.',
      TLSRoute: 'TLS streams that are passed on by their server name.',
      TCPRoute: 'TCP streams that are passed on by their port.',
      ReferenceGrant: 'Which namespaces may refer to objects of this one.',
      BackendTLSPolicy: 'How the gateway verifies a backend outside the mesh.',
    },
    ofGatewayApi,
  ),
  ...group(
    'Envoy Gateway',
    {
      SecurityPolicy: 'How callers of a Gateway or route are authenticated and authorized.',
      BackendTrafficPolicy: 'Limits, retries, balancing and health checks towards backends.',
      ClientTrafficPolicy: "How clients' certificates are verified.",
    },
    ofEnvoyGateway,
  ),
  ...group(
    'sallyport.dev',
    {
      AnomalyDetection: 'Reports unusual behaviour for a route and a caller.',
      GRPCJSONTranscoding: 'Makes gRPC calls of requests in JSON.',
      GRPCWeb: 'Serves gRPC-Web in front of gRPC backends.',
      HTTPCache: 'Stores responses, and serves them again.',
      MCPAuthorization: 'Which callers may use which tools, prompts and resources of an MCP server.',
      RequestScreening: 'Looks for attacks in requests.',
      RequestValidation: 'Compares requests and responses with the schema of their API.',
    },
    ofOurs,
  ),
  ...group(
    'Kubernetes',
    {
      Service: 'The ports of a backend.',
      Secret: 'Certificates, keys and credentials that other documents name.',
      ConfigMap: 'CA certificates and CRLs that other documents name.',
      Namespace: 'Labels that a listener selects routes by.',
    },
    ofKubernetes,
  ),
]);
