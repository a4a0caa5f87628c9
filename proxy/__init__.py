"""The proxy server: settings, routes, one request's life."""
