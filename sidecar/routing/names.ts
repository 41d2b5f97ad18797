// What this gateway is called in the status of documents.

/** GatewayClass `controllerName`. */
export const controllerName = 'sallyport.dev/gateway-controller';
