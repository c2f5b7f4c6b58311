module sokovan.dev/kit/server

go 1.26.0
