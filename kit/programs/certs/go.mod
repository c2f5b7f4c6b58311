module sokovan.dev/kit/certs

go 1.26.0
