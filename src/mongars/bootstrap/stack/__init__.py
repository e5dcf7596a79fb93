"""`mongars up`: Ray, the Serve application and the API on one machine, watched and stopped as one."""
