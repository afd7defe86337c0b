COPY a /
