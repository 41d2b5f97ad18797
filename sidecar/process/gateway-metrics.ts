// What only a gateway shows of itself: when the certificates of its listeners end.

import { Gauge, type Registry } from '../../cert-agent/base/prometheus.ts';

/** Lets `registry` read the certificates when it is asked; `notAfter` in milliseconds since 1970. */
export function registerGatewayMetrics(
  registry: Registry,
  certificates: () => readonly { readonly listener: string; readonly notAfter: number }[],
): void {
  new Gauge({
    name: 'sallyport_listener_certificate_expiration_timestamp_seconds',
    help: 'The earliest expiry of the certificates of each listener, seconds since 1970.',
    labelNames: ['listener'],
    registers: [registry],
    collect() {
      this.reset();
      for (const { listener, notAfter } of certificates()) this.set({ listener }, notAfter / 1000);
    },
  });
}
