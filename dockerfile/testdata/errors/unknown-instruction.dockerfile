FROM scratch
COPY a /
ENTRYPONT ["/a"]
COPY b /
